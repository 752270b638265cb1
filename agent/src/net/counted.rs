//! A stream whose bytes are counted into a flow, and the time in which none moved.
//!
//! `gateway` wraps a tunnel in it before it serves HTTP: what is read comes from the near end, what is written from whoever is behind the
//! server, the far end.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{copy::Count, take::TakeBytes};
use crate::flow::{Ledger, Step};

/// `io`, with what is read counted as coming from the left and what is written as coming from the right.
#[derive(Debug)]
pub struct Counted<IO, C> {
    io: IO,
    count: Arc<C>,
    /// Absent: nobody wants to know of times.
    ledger: Option<Ledger>,
    /// The last read found nothing. What a read finds at once was not waited for: who reads came late, since the far end is slow.
    awaiting: bool,
}

impl<IO, C: Count> Counted<IO, C> {
    /// Counts the bytes of `io` into `count`.
    pub fn new(io: IO, count: Arc<C>) -> Self {
        let ledger = count.wants_times().then(|| {
            let now = Instant::now();
            let ledger = Ledger::new(now);
            count.waits(ledger.ongoing(), now);
            ledger
        });
        Self { io, count, ledger, awaiting: false }
    }

    fn step(&mut self, step: Step) {
        if let Some(ledger) = &mut self.ledger {
            let now = Instant::now();
            ledger.step(now, step, |wait, time| self.count.waited(wait, time));
            self.count.waits(ledger.ongoing(), now);
        }
    }

    fn near_blocks(&self) -> bool {
        self.ledger.as_ref().is_some_and(Ledger::near_blocks)
    }

    /// After a read: `bytes` came, or none for now.
    fn heard(&mut self, bytes: Option<usize>) {
        let waited = std::mem::replace(&mut self.awaiting, bytes.is_none());
        let near_blocks = self.near_blocks();
        match bytes {
            // The end of the stream: nobody spoke.
            Some(0) => {}
            Some(bytes) => {
                self.count.add_left(bytes as u64);
                if !waited {
                    self.step(Step { far_spoke: true, near_blocks, ..Step::default() });
                }
                self.step(Step { near_spoke: true, near_blocks, ..Step::default() });
            }
            None if waited => {}
            None => self.step(Step { near_blocks, ..Step::default() }),
        }
    }

    /// After a write: so many bytes were taken, or none for now.
    fn said(&mut self, bytes: Option<usize>) {
        match bytes {
            Some(bytes) => {
                self.count.add_right(bytes as u64);
                self.step(Step { far_spoke: true, ..Step::default() });
            }
            None if self.near_blocks() => {}
            None => self.step(Step { near_blocks: true, ..Step::default() }),
        }
    }
}

impl<IO: AsyncRead + Unpin, C: Count> AsyncRead for Counted<IO, C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf)?;
        self.heard(read.is_ready().then(|| buf.filled().len() - before));
        read.map(Ok)
    }
}

impl<IO: AsyncWrite + Unpin, C: Count> AsyncWrite for Counted<IO, C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes)?;
        self.said(taken(&written));
        written.map(Ok)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, slices)?;
        self.said(taken(&written));
        written.map(Ok)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl<IO: TakeBytes + Unpin, C: Count> TakeBytes for Counted<IO, C> {
    fn poll_take(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &mut Bytes,
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_take(cx, bytes)?;
        self.said(taken(&written));
        written.map(Ok)
    }
}

fn taken(written: &Poll<usize>) -> Option<usize> {
    match written {
        Poll::Ready(bytes) => Some(*bytes),
        Poll::Pending => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        time::sleep,
    };

    use super::Counted;
    use crate::flow::{FlowId, FlowRecord, FlowTable, Side};

    /// The milliseconds that a flow waited: silent and blocked near, silent and blocked far.
    fn waited(record: &FlowRecord) -> [u64; 4] {
        let waits = record.waits;
        let all = [waits.silent_near_us, waits.blocked_near_us, waits.silent_far_us, waits.blocked_far_us];
        all.map(|us| us / 1000)
    }

    #[tokio::test(start_paused = true)]
    async fn time_is_charged_to_whoever_was_waited_for() {
        let table = FlowTable::new(Side::Gateway, 1);
        let workload = "spiffe://cluster.local/ns/default/sa/sleep".parse().unwrap();
        let flow = table.open(FlowId::random(), workload, "203.0.113.7:80".parse().unwrap());
        let (mut client, io) = duplex(8);
        let mut server = Counted::new(io, Arc::new(flow));
        let serving = tokio::spawn(async move {
            let mut request = [0; 4];
            server.read_exact(&mut request).await.unwrap();
            sleep(Duration::from_millis(300)).await;
            server.write_all(b"twenty bytes of data").await.unwrap();
            // Reads late what is there already: the workload is not to blame.
            sleep(Duration::from_millis(50)).await;
            server.read_exact(&mut request).await.unwrap();
            server
        });
        sleep(Duration::from_millis(10)).await;
        client.write_all(b"ping").await.unwrap();
        sleep(Duration::from_millis(1300)).await;
        client.write_all(b"next").await.unwrap();
        client.read_exact(&mut [0; 20]).await.unwrap();
        let server = serving.await.unwrap();
        sleep(Duration::from_millis(7)).await;
        assert_eq!(waited(&table.records()[0]), [10, 1000, 357, 0]);
        drop(server);
        assert_eq!((table.records()[0].sent, table.records()[0].received), (8, 20));
    }
}
