//! The CA's keys in a Secret: read, made when there are none, and made again when somebody deletes them.
//!
//! `app::ca` hands them to the authority, which judges them, and says how to make new ones.

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::api::PostParams;
use tokio::{
    sync::watch,
    time::{Duration, sleep},
};

use super::{
    Cluster, names,
    watching::{Mirror, mirror, named},
};
use crate::ca::Keys;

/// After the Secret could not be made.
const PAUSE: Duration = Duration::from_secs(2);

/// The keys, or why they cannot be read; `None` until that is known.
pub type Kept = Option<Result<Keys, String>>;

/// Follows the Secret, and makes it with what `make` says where it is missing. Ends when nobody listens.
pub fn watch(
    cluster: &Cluster,
    make: impl Fn() -> Result<Keys, String> + Send + Sync + 'static,
) -> watch::Receiver<Kept> {
    let found = watch::Sender::new(None);
    let (sender, receiver) = watch::channel(None);
    let cluster = cluster.clone();
    let mut changed = found.subscribe();
    tokio::spawn(async move {
        let name = describe(&cluster);
        let watching = mirror(
            cluster.in_own_namespace::<Secret>(),
            named(names::CA),
            &name,
            &cluster.standing,
            |secret| read(&secret),
            &found,
        );
        let handing_on = async {
            loop {
                let now: Mirror<Result<Keys, String>> = changed.borrow_and_update().clone();
                match now.as_ref().map(|all| all.values().next()) {
                    None => {}
                    Some(Some(keys)) => drop(sender.send_replace(Some(keys.clone()))),
                    Some(None) => {
                        create(&cluster, &make).await;
                        // It comes by the watch. If it does not, there is something in the way.
                        tokio::select! {
                            _ = changed.changed() => {}
                            () = sleep(PAUSE) => {}
                        }
                        continue;
                    }
                }
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = watching => {}
            () = handing_on => {}
            () = sender.closed() => {}
        }
    });
    receiver
}

/// The Secret, as operators know it.
pub fn describe(cluster: &Cluster) -> String {
    format!("Secret {}/{}", cluster.own.namespace, names::CA)
}

async fn create(cluster: &Cluster, make: &(impl Fn() -> Result<Keys, String> + Send + Sync)) {
    let doing = format!("{} (making it)", describe(cluster));
    let problem = match make() {
        Ok(keys) => {
            let made = cluster.in_own_namespace().create(&PostParams::default(), &secret(&keys)).await;
            match made {
                Ok(_) => {
                    tracing::info!("made {}", describe(cluster));
                    None
                }
                // Another replica was faster: its keys count.
                Err(kube::Error::Api(status)) if status.is_already_exists() => None,
                Err(e) => Some(super::watching::describe_cause(&e)),
            }
        }
        Err(why) => Some(why),
    };
    match problem {
        None => cluster.standing.forget(&doing),
        Some(problem) => {
            if cluster.standing.fails(&doing, problem.clone()) {
                tracing::error!("{} is missing and cannot be made: {problem}", describe(cluster));
            }
        }
    }
}

fn secret(keys: &Keys) -> Secret {
    let entry = |key: &str, text: &str| (key.to_owned(), ByteString(text.as_bytes().to_vec()));
    let mut data =
        std::collections::BTreeMap::from([entry("tls.crt", &keys.certificates), entry("tls.key", &keys.key)]);
    data.extend(keys.roots.as_deref().map(|roots| entry("ca.crt", roots)));
    Secret {
        metadata: super::own_object(names::CA, "ca"),
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(data),
        ..Secret::default()
    }
}

fn read(secret: &Secret) -> Result<Keys, String> {
    let text = |key: &str| match secret.data.as_ref().and_then(|data| data.get(key)) {
        None => Ok(None),
        Some(bytes) => {
            let text = std::str::from_utf8(&bytes.0).map_err(|_| format!("its {key} is not PEM"))?;
            Ok::<_, String>((!text.trim().is_empty()).then(|| text.to_owned()))
        }
    };
    Ok(Keys {
        certificates: text("tls.crt")?.ok_or("it has no tls.crt")?,
        key: text("tls.key")?.ok_or("it has no tls.key")?,
        roots: text("ca.crt")?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Keys, read, secret};

    #[test]
    fn what_is_written_is_read() {
        let with = |roots: Option<&str>| Keys {
            certificates: "certificate".to_owned(),
            key: "key".to_owned(),
            roots: roots.map(str::to_owned),
        };
        for keys in [with(None), with(Some("roots"))] {
            assert_eq!(read(&secret(&keys)), Ok(keys));
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let keys = Keys { certificates: "x".to_owned(), key: String::new(), roots: None };
        assert_eq!(read(&secret(&keys)), Err("it has no tls.key".to_owned()));
        let mut secret = secret(&keys);
        secret.data.as_mut().unwrap().remove("tls.crt");
        assert_eq!(read(&secret), Err("it has no tls.crt".to_owned()));
        secret.data.as_mut().unwrap().insert("tls.crt".to_owned(), k8s_openapi::ByteString(vec![0xff]));
        assert_eq!(read(&secret), Err("its tls.crt is not PEM".to_owned()));
    }
}
