//! Checks the table of pitfalls: a line for each of them, and every test or counter that it names is there. Called by `tidy`.

/// The table.
pub(super) const FILE: &str = "agent/PITFALLS.md";

const PITFALLS: usize = 45;

/// Names with fewer underscores are modules, fields and the like.
const UNDERSCORES: usize = 3;

/// Adds what is wrong with the table, given all Rust sources.
pub(super) fn check(table: &str, sources: &[String], breaches: &mut Vec<String>) {
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| P")).collect();
    for number in 1..=PITFALLS {
        let start = format!("| P{number} | ");
        let found =
            rows.iter().filter(|row| row.starts_with(&start) && row.split(" | ").count() >= 3).count();
        if found != 1 {
            breaches.push(format!("{FILE}: P{number} has {found} lines, not one"));
        }
    }
    for name in table.split('`').skip(1).step_by(2).filter(|name| is_long_name(name)) {
        let known =
            |text: &String| text.contains(&format!("fn {name}(")) || text.contains(&format!("\"{name}\""));
        if !sources.iter().any(known) {
            breaches.push(format!("{FILE}: {name} is no test and no counter (any more)"));
        }
    }
}

fn is_long_name(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        && text.matches('_').count() >= UNDERSCORES
}

#[cfg(test)]
mod tests {
    use super::{PITFALLS, check};

    fn breaches(table: &str) -> Vec<String> {
        let mut found = Vec::new();
        check(
            table,
            &["fn what_is_there_holds() {}\nlet counter = \"what_is_counted_too\";".to_owned()],
            &mut found,
        );
        found
    }

    fn table(last: &str) -> String {
        let row = |number| format!("| P{number} | a pitfall | handled, `node::x` |\n");
        (1..PITFALLS).map(row).chain([format!("| P{PITFALLS} | the last | {last} |\n")]).collect()
    }

    #[test]
    fn every_pitfall_has_a_line_and_every_test_exists() {
        assert_eq!(breaches(&table("kernel/x `what_is_there_holds`, `what_is_counted_too`")), [""; 0]);
        assert_eq!(breaches(&table("kernel/x `what_is_not_there`")).len(), 1);
        assert_eq!(breaches("\n").len(), PITFALLS);
        assert_eq!(breaches(&(table("x") + "| P7 | again | y |\n")).len(), 1);
    }
}
