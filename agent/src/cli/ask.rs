//! `egret ask`: prints what a role of this machine answers, as it comes. `kubernetes::ask` runs it in pods, whose admin sockets nothing
//! outside of them can reach.

use std::io::{self, Write as _};

use anyhow::bail;

use super::args::Ask;
use crate::admin::client;

/// Asks, prints.
pub(super) async fn run(ask: Ask) -> anyhow::Result<()> {
    let run_dir = ask.instance.run_dir();
    let socket = if ask.role == "agent" { run_dir.agent_socket() } else { run_dir.socket(&ask.role) };
    let answer = match client::get_raw(&socket, &ask.path).await {
        // Who reads this is elsewhere, and has no use for the way to a socket.
        Err(client::Error::Connect { .. }) => {
            bail!("it does not serve yet; its log says what it waits for")
        }
        answer => answer?,
    };
    let mut stdout = io::stdout().lock();
    stdout.write_all(&answer)?;
    Ok(stdout.flush()?)
}
