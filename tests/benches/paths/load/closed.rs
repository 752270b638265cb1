//! Closed loop: on each connection, kept or made anew, one request after the other, for a fixed time.

use std::{cell::RefCell, rc::Rc, time::Instant};

use anyhow::{Result, bail};
use serde_json::Value;
use tokio::{task::JoinSet, time::sleep};

use super::{
    Options,
    connection::{SMALL, Target, get},
    latency::Latencies,
    window::Window,
};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Connections {
    /// Each for all of its requests.
    Kept,
    /// One per request; the latency is from the dialling to the end of the answer.
    Fresh,
}

pub(super) async fn run(options: &Options, target: Target, connections: Connections) -> Result<Value> {
    let latencies = Rc::new(RefCell::new(Latencies::default()));
    let mut clients = JoinSet::new();
    for _ in 0..options.connections {
        let (target, latencies) = (target.clone(), Rc::clone(&latencies));
        clients.spawn_local(async move {
            match connections {
                Connections::Kept => keep(&target, &latencies).await,
                Connections::Fresh => renew(&target, &latencies).await,
            }
        });
    }
    let measured = async {
        sleep(options.warm_up()).await;
        latencies.take();
        let window = Window::begin(options)?;
        sleep(options.window()).await;
        window.end_with(latencies.take())
    };
    tokio::select! {
        report = measured => report,
        Some(failed) = clients.join_next() => match failed? {
            Err(error) => Err(error),
            Ok(()) => bail!("a client ended before its time"),
        },
    }
}

async fn keep(target: &Target, latencies: &RefCell<Latencies>) -> Result<()> {
    let request = get(SMALL, false);
    let mut connection = target.connect().await?;
    loop {
        let began = Instant::now();
        connection.exchange(&request).await?.expect(200)?;
        latencies.borrow_mut().add(began.elapsed());
    }
}

async fn renew(target: &Target, latencies: &RefCell<Latencies>) -> Result<()> {
    let request = get(SMALL, true);
    loop {
        let began = Instant::now();
        let mut connection = target.connect().await?;
        connection.exchange(&request).await?.expect(200)?;
        latencies.borrow_mut().add(began.elapsed());
        // The other side closes first: our source ports are free again at once.
        connection.closed().await?;
    }
}
