//! Who gets which certificate over the network. Pure: callers, their nodes and what runs there are found out by others.

use tonic::Code;

use crate::mesh::SpiffeId;

/// The service account of gateways, in Egret's own namespace: Istio's gateway chart names it so.
const GATEWAY: &str = "istio-egressgateway";
/// The CA's own service account there.
const AUTHORITY: &str = "egret-ca";

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Who calls, as its token proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its service account.
    pub account: Account,
    /// The node of the pod that the token is bound to.
    pub node: Option<String>,
}

/// What the decision goes by.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Egret's own namespace.
    pub namespace: String,
    /// The service account of agents.
    pub agent: Account,
}

/// What may be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Grant {
    /// This identity.
    Own(SpiffeId),
    /// This identity, if a pod of it runs on this node.
    IfOn {
        /// Whose certificate.
        identity: SpiffeId,
        /// The caller's node.
        node: String,
    },
}

/// Why nothing is signed: the status for the caller, and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: Code,
    pub(super) sentence: String,
}

impl Rules {
    /// The identity of the CA itself, which nobody else gets.
    pub fn authority(&self, trust_domain: &str) -> Result<SpiffeId, crate::mesh::IdentityError> {
        SpiffeId::new(trust_domain, &self.namespace, AUTHORITY)
    }

    /// What `caller` gets, who asks to be `asked` or just itself.
    pub(super) fn decide(
        &self,
        trust_domain: &str,
        caller: &Caller,
        asked: Option<&str>,
    ) -> Result<Grant, Refusal> {
        let denied = |sentence: String| Refusal { code: Code::PermissionDenied, sentence };
        let bad = |sentence: String| Refusal { code: Code::InvalidArgument, sentence };
        let account = &caller.account;
        let is_gateway = account.namespace == self.namespace && account.name == GATEWAY;
        if *account != self.agent && !is_gateway {
            return Err(denied(format!(
                "service account {}/{} may not ask this CA: agents ({}/{}) and gateways ({}/{GATEWAY}) may",
                account.namespace, account.name, self.agent.namespace, self.agent.name, self.namespace
            )));
        }
        let asked = asked.map(str::parse::<SpiffeId>).transpose().map_err(|e| bad(e.to_string()))?;
        if let Some(foreign) = asked.as_ref().filter(|asked| asked.trust_domain() != trust_domain) {
            return Err(denied(format!(
                "{foreign} is not signed here: this CA's trust domain is {trust_domain}"
            )));
        }
        if is_gateway {
            let own =
                SpiffeId::new(trust_domain, &self.namespace, GATEWAY).map_err(|e| bad(e.to_string()))?;
            return match asked {
                Some(other) if other != own => {
                    Err(denied(format!("a gateway gets its own identity {own} only, not {other}")))
                }
                _ => Ok(Grant::Own(own)),
            };
        }
        let Some(identity) = asked else {
            return Err(bad(
                "an agent has to say whose certificate it wants (ImpersonatedIdentity)".to_owned()
            ));
        };
        if self.authority(trust_domain).is_ok_and(|own| own == identity) {
            return Err(denied(format!("{identity} is this CA itself, which nobody else may be")));
        }
        let Some(node) = caller.node.clone() else {
            return Err(denied(
                "the agent's token does not say on which node its pod runs: it has to be one that the kubelet projected \
                 into the pod, of Kubernetes 1.30 or newer"
                    .to_owned(),
            ));
        };
        Ok(Grant::IfOn { identity, node })
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::{Account, Caller, Grant, Rules};

    fn rules() -> Rules {
        Rules { namespace: "istio-system".to_owned(), agent: account("istio-system", "egret-agent") }
    }

    fn account(namespace: &str, name: &str) -> Account {
        Account { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// What is said to a caller on node `a`: an identity, or one with its node, or the status.
    fn said(namespace: &str, name: &str, node: Option<&str>, asked: Option<&str>) -> Result<String, Code> {
        let caller = Caller { account: account(namespace, name), node: node.map(str::to_owned) };
        match rules().decide("cluster.local", &caller, asked) {
            Ok(Grant::Own(identity)) => Ok(identity.to_string()),
            Ok(Grant::IfOn { identity, node }) => Ok(format!("{identity} if on {node}")),
            Err(refusal) => Err(refusal.code),
        }
    }

    const SLEEP: &str = "spiffe://cluster.local/ns/default/sa/sleep";
    const GATEWAY: &str = "spiffe://cluster.local/ns/istio-system/sa/istio-egressgateway";

    #[test]
    fn an_agent_gets_what_runs_on_its_node_and_nothing_else() {
        let agent = |node, asked| said("istio-system", "egret-agent", node, asked);
        assert_eq!(agent(Some("a"), Some(SLEEP)), Ok(format!("{SLEEP} if on a")));
        assert_eq!(agent(None, Some(SLEEP)), Err(Code::PermissionDenied), "bound to no pod");
        assert_eq!(agent(Some("a"), None), Err(Code::InvalidArgument));
        assert_eq!(agent(Some("a"), Some("sleep")), Err(Code::InvalidArgument));
        for denied in [
            "spiffe://other.domain/ns/default/sa/sleep",
            "spiffe://cluster.local/ns/istio-system/sa/egret-ca",
        ] {
            assert_eq!(agent(Some("a"), Some(denied)), Err(Code::PermissionDenied), "{denied}");
        }
        // Where no gateway runs, no agent gets its certificate.
        assert_eq!(agent(Some("a"), Some(GATEWAY)), Ok(format!("{GATEWAY} if on a")));
        // The CA's name in another namespace is a workload like any other.
        let other = "spiffe://cluster.local/ns/default/sa/egret-ca";
        assert_eq!(agent(Some("a"), Some(other)), Ok(format!("{other} if on a")));
    }

    #[test]
    fn a_gateway_gets_itself() {
        let gateway = |asked| said("istio-system", "istio-egressgateway", Some("a"), asked);
        assert_eq!(gateway(None), Ok(GATEWAY.to_owned()));
        assert_eq!(gateway(Some(GATEWAY)), Ok(GATEWAY.to_owned()));
        assert_eq!(gateway(Some(SLEEP)), Err(Code::PermissionDenied));
    }

    #[test]
    fn nobody_else_gets_anything() {
        for (namespace, name) in [
            ("default", "sleep"),
            ("default", "egret-agent"),
            ("default", "istio-egressgateway"),
            ("istio-system", "egret-ca"),
            ("istio-system", "default"),
        ] {
            for asked in [None, Some(SLEEP), Some(GATEWAY)] {
                assert_eq!(said(namespace, name, Some("a"), asked), Err(Code::PermissionDenied), "{name}");
            }
        }
    }
}
