//! What Egret tells the outside about its traffic.

pub mod access_log;
