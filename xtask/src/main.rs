//! Egret's tasks.
fn main() {}
