//! Asks a resolver on behalf of a workload: bytes as they are, by the same protocol, from the network namespace that
//! `node::dial` decides for. Reads no more of a message than its length and its first two bytes.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use socket2::Type;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use crate::node::{dial, netns::Namespace};

/// How long a resolver may take: less than the 5 s after which C libraries ask the next one by themselves.
const PATIENCE: Duration = Duration::from_secs(4);
/// The largest message of either protocol.
pub(super) const MAX_MESSAGE: usize = u16::MAX as usize;

/// Sends a datagram and returns the one that answers it. From a port of its own, and from nobody else than the resolver.
pub(super) async fn datagram(
    namespace: Option<&Arc<Namespace>>,
    resolver: SocketAddr,
    query: &[u8],
) -> io::Result<Vec<u8>> {
    let exchange = async {
        let socket = UdpSocket::from_std(dial::socket(namespace, resolver, Type::DGRAM).await?.into())?;
        socket.connect(resolver).await?;
        socket.send(query).await?;
        let mut answer = vec![0; MAX_MESSAGE];
        loop {
            let length = socket.recv(&mut answer).await?;
            // The answer to another query has another id.
            if length >= 2 && answer.get(..2) == query.get(..2) {
                answer.truncate(length);
                return Ok(answer);
            }
        }
    };
    timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Opens a connection.
pub(super) async fn connect(
    namespace: Option<&Arc<Namespace>>,
    resolver: SocketAddr,
) -> io::Result<TcpStream> {
    let stream = timeout(PATIENCE, dial::connect(namespace, resolver))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The next message of a stream (RFC 1035 §4.2.2); None: it has ended.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => length,
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

/// Writes a message to a stream, at once: some clients expect length and message in one segment (RFC 7766 §8).
pub(super) async fn write(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut bytes = Vec::with_capacity(2 + message.len());
    bytes.extend(length.to_be_bytes());
    bytes.extend(message);
    stream.write_all(&bytes).await
}
