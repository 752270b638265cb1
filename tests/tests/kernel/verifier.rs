//! Each kernel program loaded by itself, and what the verifier had to do for it, compared with the table in the repository.

use std::{collections::BTreeMap, fmt::Write as _, fs};

use egret::datapath::probe::{self, Statistics};
use egret_tests::{egret::workspace, privileges};

const TABLE: &str = "agent-ebpf/VERIFIER.md";
/// With this set to 1, the test writes the table instead of comparing with it.
const RECORD: &str = "EGRET_TESTS_RECORD";

const HEAD: &str = "\
# What the verifier does for each program

Recorded by `tests/tests/kernel/verifier.rs`, which loads each program by itself and fails when one takes more than its bound: half as
much again as when it was recorded, rounded up to hundreds. After a change that is meant to cost:
`EGRET_TESTS_RECORD=1 cargo test -p egret-tests --test kernel verifier`, as root.

Instructions: of the program. Verified: instructions that the verifier went through on all paths; it gives up at 1,000,000. States: what it
remembered in all, and the most at one time.

| program | instructions | verified | states | peak | bound |
|---|---|---|---|---|---|
";

fn row(program: &str, found: &Statistics) -> String {
    let Statistics { instructions, processed, states, peak_states } = found;
    format!("| `{program}` | {instructions} | {processed} | {states} | {peak_states} | {} |", bound(found))
}

fn bound(found: &Statistics) -> u64 {
    (found.processed * 3 / 2).next_multiple_of(100)
}

/// The bounds of a table by program.
fn bounds(table: &str) -> BTreeMap<String, u64> {
    let rows = table.lines().map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    let bound = |row: Vec<&str>| {
        Some((row.get(1)?.strip_prefix('`')?.strip_suffix('`')?.to_owned(), row.get(6)?.parse().ok()?))
    };
    rows.filter_map(bound).collect()
}

#[test]
fn every_program_loads_alone_within_its_bound() {
    if !privileges::kernel_or_skip("every_program_loads_alone_within_its_bound") {
        return;
    }
    // As on a kernel that does not let programs ask who is calling.
    let without = probe::load_each(probe::Callers::NotAsked).expect("maps can be made");
    for trial in without {
        trial.outcome.unwrap_or_else(|error| panic!("{error}"));
    }
    let trials = probe::load_each(probe::Callers::Asked).expect("maps can be made");
    let mut table = HEAD.to_owned();
    let found: Vec<_> = trials
        .into_iter()
        .map(|trial| (trial.program, trial.outcome.unwrap_or_else(|error| panic!("{error}"))))
        .collect();
    for (program, statistics) in &found {
        writeln!(table, "{}", row(program, statistics)).expect("a string takes it");
    }
    eprintln!("{table}");
    let path = workspace().join(TABLE);
    if std::env::var_os(RECORD).is_some_and(|value| value == "1") {
        return fs::write(&path, table).expect("the table is written");
    }
    let recorded = bounds(&fs::read_to_string(&path).expect("the table"));
    for (program, statistics) in &found {
        let bound = recorded.get(*program);
        let why = format!("{RECORD}=1 records it");
        let bound = bound.unwrap_or_else(|| panic!("{program} is not in {TABLE}: {why}"));
        assert!(
            statistics.processed <= *bound,
            "{program}: {statistics:?}, bound {bound}; if it is meant: {why}"
        );
        // Without a branch there is no state to be remembered, and every instruction is seen once.
        let straight = usize::try_from(statistics.processed) == Ok(statistics.instructions);
        assert!(
            statistics.peak_states <= statistics.states && (statistics.states > 0 || straight),
            "{program}: {statistics:?}"
        );
    }
    assert_eq!(recorded.len(), found.len(), "{TABLE} has programs that are no more: {RECORD}=1 removes them");
}

#[test]
fn a_table_is_read_as_it_is_written() {
    let statistics = Statistics { instructions: 5, processed: 301, states: 19, peak_states: 18 };
    let table = format!("{HEAD}{}\n", row("egret_x", &statistics));
    assert_eq!(bounds(&table), BTreeMap::from([("egret_x".to_owned(), 500)]));
}
