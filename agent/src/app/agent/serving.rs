//! An agent at work, from when it has its role until it has to give it up.

use std::{future::Future, pin::pin, sync::Arc};

use tokio::{
    sync::watch,
    time::{self, MissedTickBehavior},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    LINGER, SWEEP_INTERVAL,
    beginning::{Start, Started},
    settings::apply,
};
use crate::{
    admin,
    app::take_over,
    node::{
        binding,
        guard::{self, Guards},
        observed,
    },
};

/// Why an agent does not act any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It was told to end, or its configuration has nobody who reads it any more.
    Told,
    /// Another agent has its role.
    TakenOver,
    /// Everything is to be taken away.
    Removal,
}

/// What all of the process has in common.
#[derive(Clone, Copy)]
pub(super) struct Process<'a> {
    /// Awaited before it ends.
    pub(super) tasks: &'a TaskTracker,
    /// Tells it to end.
    pub(super) stop: &'a CancellationToken,
}

/// Acts until told to end, taken over, or `removal` comes. Guards what bindings want, and what is wanted for pods. Connections that
/// were accepted go on after this.
pub(super) async fn serve(
    start: &mut Start,
    started: Started,
    admin: admin::AgentState,
    of_pods: Option<watch::Receiver<Guards>>,
    removal: impl Future<Output = ()>,
    Process { tasks, stop }: Process<'_>,
) -> Ended {
    let Started { agent, mesh, announced, clients, successors } = started;
    // Nobody else sets it, and once is all.
    drop(admin.acting.set((Arc::clone(&agent), mesh.trust_domain.clone())));
    tasks.spawn(admin::serve(clients, admin::agent(admin), stop.clone()));
    let (guards, of_bindings) = watch::channel(Guards::unknown());
    tasks.spawn(binding::run(
        Arc::clone(&agent),
        start.configuration.clone(),
        mesh.trust_domain.clone(),
        guards,
        stop.clone(),
    ));
    let wanted = match of_pods {
        Some(of_pods) => guard::both(of_bindings, of_pods),
        None => of_bindings,
    };
    tasks.spawn(Arc::clone(&agent).guard(wanted));
    let (observing, ending) = (Arc::clone(&agent), stop.clone());
    tasks.spawn(async move {
        ending.run_until_cancelled(observed::watch(observing)).await;
    });
    let (following, gateways, ending) = (Arc::clone(&agent), start.gateways.clone(), stop.clone());
    tasks.spawn(async move {
        ending.run_until_cancelled(following.follow_gateways(gateways)).await;
    });
    // An agent that was taken over may still have connections to gateways that we do not know.
    let alone = time::Instant::now() + start.settings.take_over_drain + LINGER;
    let retiring = Arc::clone(&agent);
    tasks.spawn(async move {
        time::sleep(LINGER).await;
        match retiring.capture().retire_other_versions() {
            Ok(0) => {}
            Ok(retired) => tracing::info!(retired, "removed the programs of other versions"),
            Err(e) => tracing::error!("{e}"),
        }
    });
    let mut taken_over = tokio::spawn(take_over::offer(successors, Arc::clone(&agent), announced));
    let mut sweep = time::interval(SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut removal = pin!(removal);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ended::Told,
            _ = &mut taken_over => {
                time::sleep(LINGER).await;
                return Ended::TakenOver;
            }
            () = &mut removal => return Ended::Removal,
            changed = start.configuration.changed() => {
                if changed.is_err() {
                    return Ended::Told;
                }
                let snapshot = Arc::clone(&start.configuration.borrow_and_update().snapshot);
                // While another agent takes over, the maps are its own to write.
                if let Some(_acting) = agent.acting().await {
                    apply(&agent, &mesh, &snapshot, &start.machine_resolvers);
                }
            }
            _ = sweep.tick() => {
                match agent.capture().sweep() {
                    Ok(0) => {}
                    Ok(swept) => tracing::debug!(swept, "original destinations nobody took"),
                    Err(e) => tracing::warn!("{e}"),
                }
                if time::Instant::now() > alone
                    && let Some(_acting) = agent.acting().await
                    && let Err(e) = agent.forget_gateways()
                {
                    tracing::warn!("gateways that are gone stay permitted: {e}");
                }
            }
        }
    }
}
