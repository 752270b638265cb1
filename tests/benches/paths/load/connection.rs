//! A connection of the client, plain or TLS with a client certificate, and the requests that it makes.

use std::{net::SocketAddr, path::Path, pin::Pin, sync::Arc};

use anyhow::{Context as _, Result};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::reader::{Answer, Reader};
use crate::server::HOST;

/// A request whose answer has this status and a body of a kibibyte.
pub(super) const SMALL: &str = "/1k";

/// Whom to dial, and how.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    tls: Option<TlsConnector>,
}

impl Target {
    pub(super) fn new(address: SocketAddr, certificates: Option<&Path>) -> Result<Self> {
        let tls = certificates.map(connector).transpose().context("the client's certificate")?;
        Ok(Self { address, tls })
    }

    pub(super) async fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(self.address)
            .await
            .with_context(|| format!("cannot connect to {}", self.address))?;
        stream.set_nodelay(true)?;
        let stream: Pin<Box<dyn Stream>> = match &self.tls {
            None => Box::pin(stream),
            Some(tls) => Box::pin(tls.connect(ServerName::try_from(HOST)?, stream).await?),
        };
        Ok(Connection { stream, reader: Reader::new() })
    }
}

/// What a connection is made of.
trait Stream: AsyncRead + AsyncWrite {}
impl<T: AsyncRead + AsyncWrite> Stream for T {}

pub(super) struct Connection {
    stream: Pin<Box<dyn Stream>>,
    reader: Reader,
}

impl Connection {
    /// Sends a request, and reads its answer.
    pub(super) async fn exchange(&mut self, request: &[u8]) -> Result<Answer> {
        self.send(request).await?;
        self.answer().await
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).await.context("cannot send")
    }

    pub(super) async fn answer(&mut self) -> Result<Answer> {
        self.stream.flush().await.context("cannot send")?;
        loop {
            let bytes = self.stream.read(self.reader.space()).await.context("cannot receive")?;
            if let Some(answer) = self.reader.advance(bytes)? {
                return Ok(answer);
            }
        }
    }

    /// Waits for the other side to close.
    pub(super) async fn closed(mut self) -> Result<()> {
        let mut rest = [0];
        let bytes = self.stream.read(&mut rest).await.context("instead of the end of the connection")?;
        anyhow::ensure!(bytes == 0, "more came than the answer's length");
        Ok(())
    }
}

/// A GET.
pub(super) fn get(path: &str, last: bool) -> Vec<u8> {
    let close = if last { "Connection: close\r\n" } else { "" };
    format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: egret-bench\r\n{close}\r\n").into_bytes()
}

/// The head of a PUT of so many bytes.
pub(super) fn put(path: &str, length: usize) -> Vec<u8> {
    format!(
        "PUT {path} HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: egret-bench\r\nContent-Length: {length}\r\n\r\n"
    )
    .into_bytes()
}

/// TLS 1.3 as the proxies speak it to the same server, with the same certificate.
fn connector(directory: &Path) -> Result<TlsConnector> {
    let certificates =
        |name| CertificateDer::pem_file_iter(directory.join(name))?.collect::<Result<Vec<_>, _>>();
    let mut roots = RootCertStore::empty();
    for certificate in certificates("external-ca.crt")? {
        roots.add(certificate)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(
            certificates("client.crt")?,
            PrivateKeyDer::from_pem_file(directory.join("client.key"))?,
        )?;
    Ok(TlsConnector::from(Arc::new(config)))
}
