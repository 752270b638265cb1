//! The admin sockets: HTTP with JSON over a Unix socket per role, for the CLI and the supervisor.
//!
//! The sockets are root's (mode 0600): who may talk to them may enrol workloads.

mod ca;
pub mod client;
mod explain;
mod metrics;
mod page;
mod readiness;
mod server;
mod status;

pub use ca::{CaState, CaStatus, authority, ca, measure_authority};
pub use explain::{Answer, Question};
pub use metrics::measured;
pub use page::GatewayPage;
pub use readiness::{Readiness, Ready, Stage};
pub use server::{AgentState, GatewayState, agent, base, flow_routes, gateway, serve};
pub use status::{AgentStatus, GatewayStatus, RoleStatus, WorkloadStatus};
