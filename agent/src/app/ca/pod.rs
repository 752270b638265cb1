//! `egret ca --kubernetes`: issues certificates to agents and gateways on the network; its keys are in a Secret.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{net::TcpListener, sync::watch, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin,
    app::{Settings, role, settings},
    ca::{self, Account, Authority, Desk, Office, Opening, Rules, Tally},
    kubernetes::{
        Cluster, ca_keys, ca_root,
        callers::Callers,
        configuration::{self, Scope},
    },
    source::directory::Loaded,
};

/// How often keys are looked at although nothing changed: they expire.
const LOOK: Duration = Duration::from_secs(30);

/// Runs until `stop`. What is wrong with the keys is said, and waited for to be mended.
pub(super) async fn run(
    settings: &Settings,
    network: super::Network,
    cluster: Cluster,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(network.listen).await.with_context(|| {
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
    let admin_listener = role::bind(&settings.run_dir.socket("ca"))?;
    tasks.spawn(admin::serve(admin_listener, admin::ca(status), stop.clone()));
    let desk = Desk { callers: Callers::new(&cluster), rules: rules.clone(), office, tally };
    tasks.spawn(ca::serve_network(listener, desk, stop.clone()));
    let custody = Custody { cluster: cluster.clone(), rules, opening, roots, stop: stop.clone() };
    let keeping = async {
        tokio::join!(custody.keep(), ca_root::publish(cluster, wanted));
    };
    stop.run_until_cancelled(keeping).await;
    stop.cancelled().await;
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
    stop: CancellationToken,
}

impl Custody {
    async fn keep(self) {
        // No settings, no keys: they would be for a trust domain that nobody has named.
        let Some(mut settings) = configuration::watch(&self.cluster, Scope::Ca, &self.stop).await else {
            return;
        };
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
                self.roots.send_replace(Some(office.authority().roots_pem()));
            }
            Err(why)
                if self.opening.borrow().as_ref().and_then(|known| known.as_ref().err()) != Some(why) =>
            {
                tracing::error!("{why}");
            }
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
