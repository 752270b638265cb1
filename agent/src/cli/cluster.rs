//! The operator's verbs on a cluster: who is asked, and how the answers are shown.
//!
//! `kubernetes` asks and `survey` merges. What nobody could say is said on stderr, so that half a view does not pass for the whole; the
//! exit status is a failure only when nobody answered.

pub(super) mod doctor;
pub(super) mod flows;
pub(super) mod status;

use super::output;
use crate::survey::{Role, RolePod, Silent};

/// Those of one role.
fn of_role(pods: &[RolePod], role: Role) -> Vec<RolePod> {
    pods.iter().filter(|pod| pod.role == role).cloned().collect()
}

/// Says who did not answer.
fn complain(silent: impl Iterator<Item = Silent>) {
    for one in silent {
        output::error(&anyhow::Error::msg(one.to_string()));
    }
}
