//! Who calls the CA, and what runs where: asked of the API server each time, so that nothing of the cluster is kept in memory.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus},
    core::v1::Pod,
};
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{Cluster, watching::describe_cause};
use crate::ca::{self, Account, Caller, Unknown};

/// What tokens have to be made for: one for the API server, which every pod has, opens nothing here.
const AUDIENCE: &str = "egret-ca";
/// How long a token counts as known: an agent asks for many certificates when a node starts.
const KNOWN_FOR: Duration = Duration::from_secs(10);
/// Tokens that are remembered.
const KNOWN: usize = 256;
/// Longer ones are nobody's.
const MAX_TOKEN: usize = 8 << 10;
/// Questions to the API server at a time.
const QUESTIONS: usize = 16;

const POD: &str = "authentication.kubernetes.io/pod-name";
const NODE: &str = "authentication.kubernetes.io/node-name";

/// The callers of the CA as the API server knows them.
pub struct Callers {
    cluster: Cluster,
    known: Mutex<HashMap<String, (Instant, Caller)>>,
    questions: Semaphore,
}

impl Callers {
    /// Nothing is asked yet.
    pub fn new(cluster: &Cluster) -> Self {
        Self { cluster: cluster.clone(), known: Mutex::default(), questions: Semaphore::new(QUESTIONS) }
    }

    fn known(&self, token: &str) -> Option<Caller> {
        let known = self.known.lock();
        let (since, caller) = known.get(token)?;
        (since.elapsed() < KNOWN_FOR).then(|| caller.clone())
    }

    fn remember(&self, token: &str, caller: &Caller) {
        let mut known = self.known.lock();
        known.retain(|_, (since, _)| since.elapsed() < KNOWN_FOR);
        if known.len() < KNOWN {
            known.insert(token.to_owned(), (Instant::now(), caller.clone()));
        }
    }
}

impl ca::Callers for Callers {
    async fn identify(&self, token: &str) -> Result<Caller, Unknown> {
        if token.len() > MAX_TOKEN {
            return Err(Unknown::Refused("the token is longer than any of Kubernetes is".to_owned()));
        }
        if let Some(caller) = self.known(token) {
            return Ok(caller);
        }
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![AUDIENCE.to_owned()]),
                token: Some(token.to_owned()),
            },
            ..TokenReview::default()
        };
        let reviews = Api::<TokenReview>::all(self.cluster.client.clone());
        let _turn = self.questions.acquire().await.map_err(|e| Unknown::Unavailable(e.to_string()))?;
        let reviewed = reviews.create(&PostParams::default(), &review).await.map_err(|e| {
            Unknown::Unavailable(format!("the token cannot be reviewed: {}", describe_cause(&e)))
        })?;
        let caller = caller(reviewed.status.unwrap_or_default()).map_err(Unknown::Refused)?;
        self.remember(token, &caller);
        Ok(caller)
    }

    async fn runs(&self, node: &str, namespace: &str, service_account: &str) -> Result<bool, Unknown> {
        let fields = format!(
            "spec.nodeName={node},spec.serviceAccountName={service_account},status.phase!=Succeeded,status.phase!=Failed"
        );
        let pods = Api::<Pod>::namespaced(self.cluster.client.clone(), namespace);
        let _turn = self.questions.acquire().await.map_err(|e| Unknown::Unavailable(e.to_string()))?;
        let found = pods.list_metadata(&ListParams::default().fields(&fields).limit(1)).await;
        found.map(|found| !found.items.is_empty()).map_err(|e| {
            Unknown::Unavailable(format!(
                "the pods of node {node} cannot be looked up: {}",
                describe_cause(&e)
            ))
        })
    }
}

/// Whose token it was, by the API server's answer; else why that counts for nothing.
fn caller(status: TokenReviewStatus) -> Result<Caller, String> {
    if !status.authenticated.unwrap_or(false) {
        let why = status.error.unwrap_or_else(|| "the API server does not know it".to_owned());
        return Err(format!("the token is refused: {why}"));
    }
    // An API server that knows no audiences would take tokens that were made for others.
    if !status.audiences.iter().flatten().any(|audience| audience == AUDIENCE) {
        return Err(format!("the token is refused: it is not for the audience {AUDIENCE}"));
    }
    let user = status.user.unwrap_or_default();
    let name = user.username.unwrap_or_default();
    let account = name
        .strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'))
        .ok_or_else(|| format!("the token is refused: {name:?} is no service account"))?;
    let extra: BTreeMap<String, Vec<String>> = user.extra.unwrap_or_default();
    let said = |key: &str| extra.get(key).and_then(|values| values.first()).filter(|value| !value.is_empty());
    Ok(Caller {
        account: Account { namespace: account.0.to_owned(), name: account.1.to_owned() },
        // The node counts only with a pod: there are tokens that are bound to a node alone.
        node: said(POD).and_then(|_| said(NODE)).cloned(),
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::TokenReviewStatus;
    use serde_json::{Value, json};

    use super::{Account, Caller, caller};

    fn answer(change: impl FnOnce(&mut Value)) -> Result<Caller, String> {
        let mut status = json!({
            "authenticated": true,
            "audiences": ["egret-ca"],
            "user": {
                "username": "system:serviceaccount:istio-system:egret-agent",
                "extra": {
                    "authentication.kubernetes.io/node-name": ["a"],
                    "authentication.kubernetes.io/pod-name": ["egret-agent-x"],
                },
            },
        });
        change(&mut status);
        caller(serde_json::from_value::<TokenReviewStatus>(status).unwrap())
    }

    #[test]
    fn a_caller_is_a_service_account_on_a_node() {
        let account = Account { namespace: "istio-system".to_owned(), name: "egret-agent".to_owned() };
        assert_eq!(answer(|_| {}), Ok(Caller { account, node: Some("a".to_owned()) }));
    }

    #[test]
    fn a_token_that_no_pod_has_is_on_no_node() {
        for key in ["authentication.kubernetes.io/pod-name", "authentication.kubernetes.io/node-name"] {
            let without = answer(|status| {
                status["user"]["extra"].as_object_mut().unwrap().remove(key);
            });
            assert_eq!(without.unwrap().node, None, "{key}");
        }
    }

    #[test]
    fn what_the_api_server_does_not_vouch_for_is_refused() {
        for (change, expected) in [
            (json!({"authenticated": false, "error": "expired"}), "expired"),
            (json!({"authenticated": null}), "does not know"),
            (json!({"audiences": null}), "audience egret-ca"),
            (json!({"audiences": ["https://kubernetes.default.svc"]}), "audience egret-ca"),
            (json!({"user": {"username": "admin"}}), "no service account"),
            (json!({"user": {"username": "system:serviceaccount:x"}}), "no service account"),
            (json!({"user": null}), "no service account"),
        ] {
            let refused = answer(|status| {
                let status = status.as_object_mut().unwrap();
                status.extend(change.as_object().unwrap().clone());
            });
            let why = refused.unwrap_err();
            assert!(why.contains(expected), "{change}: {why}");
        }
    }
}
