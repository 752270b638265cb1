//! Kernel tests: the real programs on a real cgroup, with real sockets. They need root; without it they fail, or say what was
//! left out where that is allowed (`egret_tests::privileges`). Each runs in network and mount namespaces of its own, so
//! they neither see each other nor the machine's addresses, and a crash leaves no pins behind.

mod agent_down;
mod backstop;
mod born;
mod callers;
mod capture;
mod dns;
mod events;
mod frames;
mod guard;
mod lab;
mod lifecycle;
mod link;
mod load;
mod mixed;
mod neighbours;
mod older;
mod outside;
mod part;
mod ports;
mod refusal;
mod start;
mod tunnels;
mod upgrade;
mod verifier;
mod warden;
