//! `egret ca --kubernetes`: issues certificates to agents and gateways on the network; its keys are in a Secret.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{sync::watch, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin,
    app::{Settings, health::Health, listen::listen, metrics, role, settings},
    ca::{self, Account, Authority, Desk, Office, Opening, Rules, Tally},
    kubernetes::{Cluster, ca_keys, ca_root, callers::Callers, configuration::Scope},
    source::following::Loaded,
};

/// How often keys are looked at although nothing changed: they expire.
const LOOK: Duration = Duration::from_secs(30);

/// What the CA needs before it is ready, besides what it reads and writes at the API server.
const KEYS: &str = "keys";

/// Runs until `stop`. What is wrong with the keys is said, and waited for to be mended.
pub(super) async fn run(
    settings: &Settings,
    network: super::Network,
    cluster: Cluster,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let health = Health::waiting_for(&[KEYS]);
    health.follow(cluster.standing.clone());
    let ended = CancellationToken::new();
    let _ended = ended.clone().drop_guard();
    if let Some(address) = settings.health_address {
        health.serve(address, ended.clone())?;
    }
    let listener = listen(network.listen).with_context(|| {
        format!("the CA cannot listen on {}: choose another address with --listen", network.listen)
    })?;
    let rules = Rules {
        namespace: cluster.own.namespace.clone(),
        agent: network.agent.unwrap_or_else(|| Account {
            namespace: cluster.own.namespace.clone(),
            name: settings::AGENT_ACCOUNT.to_owned(),
        }),
    };
    let tally = Arc::new(Tally::default());
    let (opening, office) = watch::channel(None);
    let (roots, wanted) = watch::channel(None);
    let tasks = TaskTracker::new();
    let status = admin::CaState {
        office: office.clone(),
        standing: cluster.standing.clone(),
        tally: Arc::clone(&tally),
    };
    if let Some(address) = settings.metrics_address {
        let (measured, ready) = (status.clone(), health.asker());
        metrics::serve(address, move || measured.measure(&ready()), ended.clone())?;
    }
    let admin_listener = role::bind(&settings.run_dir.socket("ca"))?;
    tasks.spawn(admin::serve(admin_listener, admin::ca(status, health.asker()), stop.clone()));
    let desk = Desk { callers: Callers::new(&cluster), rules: rules.clone(), office, tally };
    tasks.spawn(ca::serve_network(listener, desk, stop.clone()));
    let keeping = async {
        // No settings, no keys: they would be for a trust domain that nobody has named.
        let configuration = role::configuration(settings, Some(&cluster), Scope::Ca, &stop).await?;
        let custody = Custody { cluster: cluster.clone(), rules, opening, roots, health: health.clone() };
        tokio::join!(custody.keep(configuration), ca_root::publish(cluster.clone(), wanted));
        anyhow::Ok(())
    };
    let kept = stop.run_until_cancelled(keeping).await;
    if !stop.is_cancelled() {
        kept.transpose()?;
        stop.cancelled().await;
    }
    health.drains();
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// Who opens the office when there are good keys, and closes it when there are not.
struct Custody {
    cluster: Cluster,
    rules: Rules,
    opening: watch::Sender<Opening>,
    roots: watch::Sender<Option<String>>,
    health: Health,
}

impl Custody {
    async fn keep(self, mut settings: watch::Receiver<Loaded>) {
        let mut keys = {
            let (settings, office) = (settings.clone(), self.opening.subscribe());
            ca_keys::watch(&self.cluster, move || {
                // Deleted while we had good ones: a mistake, or it would mean new certificates for everybody.
                if let Some(Ok(office)) = &*office.borrow() {
                    return Ok(office.authority().keys());
                }
                Authority::generate(&trust_domain(&settings))
                    .map(|authority| authority.keys())
                    .map_err(|e| e.to_string())
            })
        };
        let mut look = time::interval(LOOK);
        loop {
            let kept = keys.borrow_and_update().clone();
            settings.mark_unchanged();
            if let Some(kept) = kept {
                self.judge(kept, &trust_domain(&settings)).await;
            }
            let goes_on = tokio::select! {
                changed = keys.changed() => changed.is_ok(),
                changed = settings.changed() => changed.is_ok(),
                _ = look.tick() => true,
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Opens the office with what is kept, or says why it stays closed.
    async fn judge(&self, kept: Result<ca::Keys, String>, trust_domain: &str) {
        if let (Ok(keys), Some(Ok(office))) = (&kept, &*self.opening.borrow()) {
            let same =
                office.authority().keys() == *keys && office.authority().trust_domain() == trust_domain;
            if same && Authority::of_keys(keys, trust_domain).is_ok() {
                return;
            }
        }
        let opened = match kept {
            Ok(keys) => Office::open(&keys, trust_domain, &self.rules).await,
            Err(why) => Err(why),
        };
        let opened = opened.map_err(|why| {
            format!(
                "{} is unusable: {why}. Mend it, or delete it to have a new root made; every workload and gateway then \
                 needs a new certificate, which they have when agents and gateways were restarted",
                ca_keys::describe(&self.cluster)
            )
        });
        match &opened {
            Ok(office) => {
                tracing::info!(trust_domain, "issuing certificates");
                self.health.has(KEYS);
                self.roots.send_replace(Some(office.authority().roots_pem()));
            }
            Err(why) if self.health.lacks(KEYS, why) => tracing::error!("{why}"),
            Err(_) => {}
        }
        self.opening.send_replace(Some(opened));
    }
}

fn trust_domain(settings: &watch::Receiver<Loaded>) -> String {
    settings.borrow().snapshot.settings.trust_domain.clone()
}

/// The CA's port, on all addresses.
pub const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), 15012);
