//! `micro instructions KIND SIZE COUNT`: makes one decision so many times, for whoever counts instructions of [`measured`].
//! Prints the allocations that they took. `cargo xtask instructions` runs it under valgrind; without arguments it lists what there is.

use anyhow::{Context as _, Result};

use crate::{
    allocations,
    decisions::{Asked, KINDS, Kind, SIZES},
};

/// Runs it.
#[expect(clippy::print_stdout, reason = "read by whoever runs it")]
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let [kind, size, count] = arguments else {
        for (kind, (size, _)) in KINDS.iter().flat_map(|kind| SIZES.map(|size| (kind, size))) {
            println!("{} {size}", kind.name);
        }
        return Ok(());
    };
    let kind = KINDS.iter().find(|known| known.name == kind).context("no such decision")?;
    let (_, size) = SIZES.iter().find(|(known, _)| known == size).context("no such configuration")?;
    let count = count.parse().context("no count")?;
    let snapshot = size.snapshot();
    let asked = Asked::new(&snapshot);
    // What is made once.
    kind.decide(&asked);
    let before = allocations::taken();
    measured(kind, &asked, count);
    println!("{}", allocations::taken() - before);
    Ok(())
}

/// Its name is what valgrind is told to look for.
#[inline(never)]
fn measured(kind: &Kind, asked: &Asked<'_>, count: u64) {
    for _ in 0..count {
        kind.decide(asked);
    }
}
