//! `cargo bench --package egret --bench micro`: what single steps of the data path cost, by criterion. No root, no network.
//!
//! Authorization and routing in a small and in a large configuration, telling what a connection speaks, tunnels, copying. Behind
//! `instructions` it is what `cargo xtask instructions` runs. What whole requests cost is measured by `cargo xtask bench`.

mod allocations;
mod configuration;
mod decisions;
mod instructions;
mod streams;

use criterion::Criterion;

use decisions::{Asked, KINDS, SIZES};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|verb| verb == "instructions") {
        return instructions::run(&arguments[1..]);
    }
    let mut criterion = Criterion::default().configure_from_args();
    decide(&mut criterion);
    streams::sniffing(&mut criterion);
    streams::tunnels(&mut criterion);
    streams::copying(&mut criterion);
    criterion.final_summary();
    Ok(())
}

fn decide(criterion: &mut Criterion) {
    for (size, configuration) in SIZES {
        let snapshot = configuration.snapshot();
        let asked = Asked::new(&snapshot);
        let mut group = criterion.benchmark_group(size);
        for kind in KINDS {
            group.bench_function(kind.name, |bencher| bencher.iter(|| kind.decide(&asked)));
        }
    }
}
