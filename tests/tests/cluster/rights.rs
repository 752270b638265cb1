//! Egret may do nothing that it does not need: every rule of its roles and every capability of the agent is taken away in turn, and
//! something breaks that says which one. Given back, it goes on by itself.

mod capabilities;
mod rules;

use std::{collections::BTreeSet, thread, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use egret_tests::{
    cluster::{
        installed::{Caller, Installed, NAMESPACE, condition},
        parts::{AGENT, CA, GATEWAY, Part},
        plan::NODES,
    },
    external::External,
    wait,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use self::rules::{Breaks, RULES, Right, Role, Rule, UNINSTALL, given, rights_of, rules_of};

/// What something gets that is to be seen soon.
const PATIENCE: Duration = Duration::from_secs(30);

/// A count of denials is brought up to date once a minute.
const COUNTED: Duration = Duration::from_secs(100);

/// A namespace of ours, enrolled.
const ENROLLED: &str = "rights";
/// Where agents are broken, and pods enrolled.
const NODE: &str = NODES[0];

#[test]
fn no_rule_of_the_api_is_superfluous() -> Result<()> {
    let Some(egret) = super::installed()? else { return Ok(()) };
    // With everything that takes rules.
    egret.upgrade(&["meshConfig.dns.capture=true"])?;
    egret.namespace(ENROLLED, true)?;
    let expected: BTreeSet<Right> = RULES.iter().flat_map(Rule::rights).collect();
    let given = given(egret.kube())?;
    let (more, less): (Vec<_>, Vec<_>) =
        (given.difference(&expected).collect(), expected.difference(&given).collect());
    ensure!(more.is_empty() && less.is_empty(), "rules without an entry here: {more:?}; gone: {less:?}");

    let of = |part: Part| RULES.iter().filter(move |rule| rule.who == part);
    let directory = TempDir::new()?;
    let external = External::start(&crate::external_binary(), egret.cluster().internet(), directory.path())?;
    let url = format!("http://{}/status/418", external.address());
    let one_by_one = |part: Part| of(part).try_for_each(|rule| without(&egret, rule, &url));
    thread::scope(|scope| {
        // Each breaks its own pods, and needs only the CA of the others.
        let gateways = scope.spawn(|| one_by_one(GATEWAY));
        let removal = scope.spawn(|| one_by_one(UNINSTALL));
        let agents = one_by_one(AGENT);
        for other in [gateways, removal] {
            other.join().unwrap_or_else(|_| bail!("a thread panicked"))?;
        }
        agents
    })?;
    one_by_one(CA)?;
    for part in [AGENT, GATEWAY, CA] {
        without_watching(&egret, part)?;
    }
    egret.remove_namespace(ENROLLED)?;
    egret.upgrade(&[])
}

/// Roles with less in them than they had; what they had comes back when this is dropped.
struct Less<'a> {
    egret: &'a Installed,
    before: Vec<(Role, Value)>,
}

impl<'a> Less<'a> {
    fn without(egret: &'a Installed, taken: &[Right]) -> Result<Self> {
        let mut less = Self { egret, before: Vec::new() };
        let roles: BTreeSet<&Role> = taken.iter().map(|right| &right.0).collect();
        for role in roles {
            let found = egret.kube().get(&[role.0, &role.1, "-n", NAMESPACE])?;
            let all = rights_of(role, &found["rules"]);
            let left: Vec<Right> = all.iter().filter(|right| !taken.contains(right)).cloned().collect();
            less.before.push((role.clone(), found["rules"].clone()));
            less.set(role, &rules_of(&left))?;
        }
        Ok(less)
    }

    fn set(&self, (kind, name): &Role, rules: &Value) -> Result<()> {
        let patch = json!({ "rules": rules }).to_string();
        let arguments = ["patch", kind, name, "-n", NAMESPACE, "--type=merge", "-p", &patch];
        self.egret.kube().kubectl(&arguments).map(drop)
    }

    fn give_back(mut self) -> Result<()> {
        std::mem::take(&mut self.before).iter().try_for_each(|(role, rules)| self.set(role, rules))
    }
}

impl Drop for Less<'_> {
    fn drop(&mut self) {
        for (role, rules) in &self.before {
            // There was an error already, or nothing is left.
            let _ = self.set(role, rules);
        }
    }
}

/// Takes one rule away, sees what breaks, gives it back, and sees that go on.
fn without(egret: &Installed, rule: &Rule, url: &str) -> Result<()> {
    let less = Less::without(egret, &rule.rights().collect::<Vec<_>>())?;
    // A list is what everything begins with.
    let refusal = rule.refusal(rule.verbs[0]);
    let words: Vec<&str> = refusal.iter().map(String::as_str).collect();
    let broken = || match rule.breaks {
        Breaks::Start => start(egret, rule.who, &words, less),
        Breaks::Gateway => start(egret, GATEWAY, &words, less),
        Breaks::Enrolment => enrolment(egret, rule.who, &words, less),
        Breaks::Doubt => doubt(egret, rule.who, &words, url, less),
        Breaks::Certificate => certificate(egret, rule.who, &words, url, less),
        Breaks::Repair(kind, name) => repair(egret, rule.who, &words, (kind, name), less),
        Breaks::Event => event(egret, rule.who, &words, url, less),
        Breaks::Removal => removal(egret, &words, rule.name, less),
    };
    broken().with_context(|| format!("without {:?} on {} of {}", rule.verbs, rule.resource, rule.who.account))
}

/// A new pod of `part` does not get ready, and says so; then it does, without being started again.
fn start(egret: &Installed, part: Part, words: &[&str], less: Less<'_>) -> Result<()> {
    let pod = egret.renew(part, (part == AGENT).then_some(NODE))?;
    egret.wait_for_said(part, &pod, false, words)?;
    egret.wait_for_log(part, words)?;
    less.give_back()?;
    egret.wait_for_said(part, &pod, true, &[])?;
    egret.never_restarted(&pod)
}

/// A pod that is enrolled now is not said to be captured, then it is.
fn enrolment(egret: &Installed, part: Part, words: &[&str], less: Less<'_>) -> Result<()> {
    let caller = Caller { namespace: ENROLLED, name: part.role, node: Some(NODE), ..Caller::default() };
    egret.start(&caller)?;
    // Who is told of it, where it is not the one that may not.
    let pod = egret.agent_on(NODE)?;
    wait::until(&format!("{words:?} to be said"), PATIENCE, || {
        let said = egret.log(&pod)?;
        Ok(said.lines().any(|line| words.iter().all(|word| line.contains(word))).then_some(()))
    })?;
    let found = egret.kube().get(&["pod", caller.name, "-n", ENROLLED])?;
    let captured = condition(&found).is_some_and(|condition| condition["status"] == "True");
    ensure!(!captured, "the pod counts as captured: {found}");
    less.give_back()?;
    egret.wait_for_condition(ENROLLED, caller.name, "True")
}

/// An enrolled pod has no identity yet, and is refused until it has.
fn certificate(egret: &Installed, part: Part, words: &[&str], url: &str, less: Less<'_>) -> Result<()> {
    let caller = Caller { namespace: ENROLLED, name: "nobody-yet", node: Some(NODE), ..Caller::default() };
    egret.start_captured(&caller)?;
    let call = || egret.curl(ENROLLED, caller.name, &["--max-time", "5", url]);
    let refused = call()?;
    ensure!(refused.status != Some(418), "{}", refused.summary());
    egret.wait_for_log(part, words)?;
    less.give_back()?;
    wait::until("the pod to be served", PATIENCE, || Ok((call()?.status == Some(418)).then_some(())))
}

/// A new pod that is not enrolled is held, which the agent says, then let go.
fn doubt(egret: &Installed, part: Part, words: &[&str], url: &str, less: Less<'_>) -> Result<()> {
    const FREE: &str = "rights-free";
    let caller = Caller { namespace: FREE, name: "free", node: Some(NODE), ..Caller::default() };
    egret.namespace(FREE, false)?;
    egret.start(&caller)?;
    egret.wait_for_log(part, words)?;
    let call = || egret.curl(FREE, caller.name, &["--max-time", "5", url]);
    let held = call()?;
    ensure!(held.status.is_none(), "{}", held.summary());
    less.give_back()?;
    wait::until("the pod to be let go", PATIENCE, || Ok(call()?.status))?;
    egret.remove_namespace(FREE)
}

/// What is denied to a pod is said to be untold, and stays denied; then it is told. More of the same is told by changing what is there,
/// a minute later.
fn event(egret: &Installed, part: Part, words: &[&str], url: &str, less: Less<'_>) -> Result<()> {
    // Agents are broken on the other node.
    let caller = Caller { namespace: ENROLLED, name: "untold", node: Some(NODES[1]), ..Caller::default() };
    egret.start_captured(&caller)?;
    egret.kube().apply(&crate::events::deny("untold.test"))?;
    let denied = || {
        let answer =
            egret.curl(ENROLLED, caller.name, &["--max-time", "5", "--header", "host: untold.test", url])?;
        Ok((answer.status == Some(403)).then_some(()))
    };
    let said = |wanted: bool| {
        wait::until(&format!("{words:?} to be said: {wanted}"), COUNTED, || {
            denied()?;
            let pods = egret.pods(part.account)?;
            let all = pods
                .iter()
                .map(|pod| egret.ready(part, pod).map(|said| said.text))
                .collect::<Result<Vec<_>>>()?;
            let found =
                all.iter().any(|text| text.lines().any(|line| words.iter().all(|word| line.contains(word))));
            Ok((found == wanted).then_some(()))
        })
    };
    wait::until("the policy to be in force", PATIENCE, denied)?;
    said(true)?;
    egret.wait_for_log(part, words)?;
    less.give_back()?;
    said(false)?;
    egret.kube().kubectl(&["delete", "authorizationpolicy", "deny-events", "-n", NAMESPACE])?;
    egret
        .kube()
        .kubectl(&["delete", "pod", caller.name, "-n", ENROLLED, "--force", "--grace-period=0"])
        .map(drop)
}

/// What is deleted is missed, then made again.
fn repair(
    egret: &Installed,
    part: Part,
    words: &[&str],
    (kind, name): (&str, &str),
    less: Less<'_>,
) -> Result<()> {
    let there = |at: &Value| at["data"].is_object();
    let before = egret.kube().get(&[kind, name, "-n", NAMESPACE])?;
    egret.kube().kubectl(&["delete", kind, name, "-n", NAMESPACE])?;
    egret.wait_for_log(part, words)?;
    less.give_back()?;
    let after = egret.kube().wait_for(name, &[kind, name, "-n", NAMESPACE], PATIENCE, there)?;
    ensure!(before["data"] == after["data"], "{kind} {name} is another one");
    Ok(())
}

/// `egret uninstall` fails before it has ordered anything.
fn removal(egret: &Installed, words: &[&str], exists: Option<&str>, less: Less<'_>) -> Result<()> {
    const POD: &str = "may-not-remove";
    if let Some(name) = exists {
        egret.kube().kubectl(&["create", "configmap", name, "-n", NAMESPACE])?;
    }
    let job = egret.kube().get(&["daemonset/egret-agent", "-n", NAMESPACE])?;
    let container = &job["spec"]["template"]["spec"]["containers"][0];
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": POD, "namespace": NAMESPACE },
        "spec": { "serviceAccountName": UNINSTALL.account, "restartPolicy": "Never",
            "containers": [{ "name": "uninstall", "image": container["image"], "imagePullPolicy": "Never",
                "args": ["uninstall", "--timeout=1"], "env": container["env"] }] } });
    egret.kube().apply(&pod.to_string())?;
    let ended = |pod: &Value| pod["status"]["phase"] == "Failed" || pod["status"]["phase"] == "Succeeded";
    egret.kube().wait_for("the removal to end", &["pod", POD, "-n", NAMESPACE], PATIENCE, ended)?;
    let said = egret.log(POD)?;
    egret.kube().kubectl(&["delete", "pod", POD, "-n", NAMESPACE, "--force", "--grace-period=0"])?;
    if let Some(name) = exists {
        egret.kube().kubectl(&["delete", "configmap", name, "-n", NAMESPACE])?;
    }
    ensure!(words.iter().all(|word| said.contains(word)), "{said}");
    less.give_back()
}

/// All that a part watches, at once, for each of them says by itself that it cannot.
fn without_watching(egret: &Installed, part: Part) -> Result<()> {
    let watched: Vec<&Rule> =
        RULES.iter().filter(|rule| rule.who == part && rule.verbs.contains(&"watch")).collect();
    let rights = watched.iter().flat_map(|rule| rule.rights());
    let less = Less::without(egret, &rights.filter(|right| right.4 == "watch").collect::<Vec<_>>())?;
    let pod = egret.renew(part, (part == AGENT).then_some(NODE))?;
    for rule in watched {
        let refusal = rule.refusal("watch");
        let words: Vec<&str> = refusal.iter().map(String::as_str).collect();
        let waited = wait::until(&format!("{pod} to say {words:?}"), PATIENCE, || {
            let said = egret.ready(part, &pod)?;
            Ok(said.text.lines().any(|line| words.iter().all(|word| line.contains(word))).then_some(()))
        });
        waited.with_context(|| egret.ready(part, &pod).map_or_else(|e| e.to_string(), |said| said.text))?;
    }
    less.give_back()?;
    wait::until(&format!("{pod} to have no complaint"), PATIENCE, || {
        let said = egret.ready(part, &pod)?;
        Ok((said.ready && !said.text.contains("forbidden")).then_some(()))
    })?;
    egret.never_restarted(&pod)
}
