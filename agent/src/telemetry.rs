//! What Egret says of itself: the log for operators, the gateway's access log, metrics and traces.

pub mod access_log;
pub mod logging;
pub mod metrics;
pub mod traces;
