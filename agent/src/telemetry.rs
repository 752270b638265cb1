//! What Egret says of itself: the log for operators, and the gateway's access log.

pub mod access_log;
pub mod logging;
