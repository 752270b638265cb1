//! Metrics for Prometheus: what a role counts while it works, and how that is written.
//!
//! `gateway` counts traffic and refusals in series whose number is bounded (`bounded`); everything else is read when somebody asks
//! (`admin`), and put on a `page`. Serves nothing: that is `app::metrics`.

pub mod bounded;
pub mod exposition;
pub mod page;
pub mod refusals;
pub mod traffic;
