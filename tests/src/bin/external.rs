//! `egret-external`: the external service of tests and demo, and its certificates. See `service` and `pki`.

use std::{io::Write as _, net::SocketAddr, path::PathBuf};

use anyhow::Result;
use clap::Parser;
use egret_tests::{
    pki,
    service::{Service, Settings},
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
