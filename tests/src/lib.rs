//! Harness of the end-to-end tests.

pub mod cgroup;
pub mod privileges;
