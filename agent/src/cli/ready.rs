//! `egret ready ROLE`: the exec probe of pods. Succeeds when the role is ready, else says why it is not: the kubelet shows that in the
//! pod's events.

use std::process::ExitCode;

use super::{
    args::{Ready, RoleName},
    output,
};
use crate::admin::{self, client};

/// Asks, prints.
pub(super) async fn run(arguments: Ready) -> anyhow::Result<ExitCode> {
    let run_dir = arguments.instance.run_dir();
    let (name, socket) = match arguments.role {
        RoleName::Agent => ("agent", run_dir.agent_socket()),
        RoleName::Gateway => ("gateway", run_dir.socket("gateway")),
        RoleName::Ca => ("ca", run_dir.socket("ca")),
    };
    let answer = client::get::<admin::Ready>(&socket, "/ready").await?;
    output::text(human(name, &answer))?;
    Ok(if answer.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn human(role: &str, answer: &admin::Ready) -> String {
    let verdict = if answer.ready { "ready" } else { "not ready" };
    let mut lines = vec![format!("{role}: {verdict} ({})", answer.stage)];
    lines.extend(answer.problems.iter().map(|problem| format!("  {problem}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::human;
    use crate::admin::{Ready, Stage};

    #[test]
    fn what_is_in_the_way_is_said() {
        let answer = Ready {
            ready: false,
            pid: 1,
            stage: Stage::Starting,
            problems: vec!["capture: this kernel has no BTF".to_owned()],
        };
        assert_eq!(human("agent", &answer), "agent: not ready (starting)\n  capture: this kernel has no BTF");
        let answer = Ready { ready: true, stage: Stage::TakenOver, problems: Vec::new(), ..answer };
        assert_eq!(human("agent", &answer), "agent: ready (taken over by another process)");
    }
}
