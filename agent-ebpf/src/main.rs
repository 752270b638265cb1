//! Egret's kernel programs.
fn main() {}
