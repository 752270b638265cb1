//! `egret-external`: the external service of tests and demo, and its certificates. See `service` and `pki`.

use std::{io::Write as _, net::SocketAddr, path::PathBuf};

use anyhow::Result;
use clap::Parser;
use egret_tests::{
    load::Load,
    pki,
    service::{Service, Settings},
    transfers,
};

/// The outside world of Egret's tests and demo.
#[derive(Parser)]
enum Command {
    /// Write all certificates into a directory.
    Pki {
        /// The directory; created.
        #[arg(long)]
        out: PathBuf,
        /// Name in the service's certificate.
        #[arg(long, default_value = "test.com")]
        host: String,
    },
    /// Ask for something again and again, and report.
    Load {
        /// Address of the server.
        #[arg(long)]
        address: SocketAddr,
        /// Host to ask for.
        #[arg(long)]
        host: String,
        /// Path to ask for.
        #[arg(long)]
        path: String,
        /// File whose appearance ends it.
        #[arg(long)]
        until: PathBuf,
        /// File for the report.
        #[arg(long)]
        report: PathBuf,
        /// Threads that keep their connections.
        #[arg(long, default_value_t = 2)]
        kept: usize,
        /// Threads with a new connection for each request.
        #[arg(long, default_value_t = 2)]
        new: usize,
    },
    /// Make transfers of random sizes, and report what was sent and received.
    Transfers {
        /// Address of the sink.
        #[arg(long)]
        address: SocketAddr,
        /// How many.
        #[arg(long)]
        count: usize,
        /// File for the report.
        #[arg(long)]
        report: PathBuf,
    },
    /// Be the other end of transfers, and say `ready` on stderr.
    Sink {
        /// Where to listen.
        #[arg(long)]
        listen: SocketAddr,
        /// File for the report.
        #[arg(long)]
        report: PathBuf,
    },
    /// Serve, and say `ready` on stderr.
    Serve {
        /// Address of the plain port.
        #[arg(long)]
        http: SocketAddr,
        /// Address of the port that requires a client certificate.
        #[arg(long)]
        https: SocketAddr,
        /// Certificate chain (PEM).
        #[arg(long)]
        certificate: PathBuf,
        /// Private key (PEM).
        #[arg(long)]
        key: PathBuf,
        /// CA of the clients (PEM).
        #[arg(long)]
        client_ca: PathBuf,
        /// File to append the request log to.
        #[arg(long)]
        log: PathBuf,
    },
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Pki { out, host } => pki::write(&out, &host),
        Command::Load { address, host, path, until, report, kept, new } => {
            Ok(Load { address, host, path, threads: (kept, new), until, report }.run()?)
        }
        Command::Transfers { address, count, report } => Ok(transfers::run(address, count, &report)?),
        Command::Sink { listen, report } => Ok(transfers::serve(listen, &report)?),
        Command::Serve { http, https, certificate, key, client_ca, log } => {
            serve(&Settings { http, https, certificate, key, client_ca, log })
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn serve(settings: &Settings) -> Result<()> {
    let service = Service::bind(settings).await?;
    let (http, https) = service.addresses()?;
    writeln!(std::io::stderr(), "ready http={http} https={https}")?;
    service.run().await
}
