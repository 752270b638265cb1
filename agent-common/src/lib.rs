//! The contract between Egret's kernel programs (`agent-ebpf`) and its user space (`agent`).
#![no_std]
