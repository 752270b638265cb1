//! Medians and quartiles, for benchmarks: what interrupts one measurement does not touch them.

/// The median of these values, which are sorted on the way.
pub fn median(values: &mut [f64]) -> f64 {
    quartile(values, 2)
}

/// Sorts, and returns the first, second or third quartile.
pub fn quartile(values: &mut [f64], which: usize) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let at = values.len().saturating_sub(1) * which / 4;
    values.get(at).copied().unwrap_or(f64::NAN)
}

/// All three.
pub fn quartiles(values: &mut [f64]) -> [f64; 3] {
    [1, 2, 3].map(|which| quartile(values, which))
}

#[cfg(test)]
mod tests {
    use super::{median, quartiles};

    #[test]
    fn they_are_values_that_were_there() {
        let bits = |values: [f64; 3]| values.map(f64::to_bits);
        assert_eq!(bits(quartiles(&mut [5.0, 1.0, 4.0, 2.0, 3.0])), bits([2.0, 3.0, 4.0]));
        assert_eq!(bits(quartiles(&mut [7.0])), bits([7.0; 3]));
        assert!(median(&mut []).is_nan());
    }
}
