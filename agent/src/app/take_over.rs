//! One agent takes over from another that runs: the dialogue of the two processes, over a socket in the run directory.
//!
//! ```text
//! successor  take-over 1      programs loaded, configuration read
//! old        frozen ID        nothing is enrolled, released or repaired any more; ID: the last workload's number
//! successor  wait …           binds listeners, attaches, writes policies: new connections are its own; says so now and then
//! successor  drain            serves
//! old        drained          the role's lock is free; accepts a little longer, then waits for its connections
//! ```
//!
//! When the successor dies, is silent, or says `abort`, the old one takes everything back and says `restored`. `app::agent`
//! calls both halves.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{interval, timeout},
};

use super::{
    role::{Announced, Candidate},
    run_dir::RunDir,
};
use crate::node::agent::Agent;

/// Name of the socket in the run directory.
pub(super) const SOCKET: &str = "take-over";

/// What a successor may be silent before it counts as dead.
const SILENCE: Duration = Duration::from_secs(3);

/// How often a successor says that it is still at work.
const WORD_INTERVAL: Duration = Duration::from_millis(500);

/// How long the old agent may take to answer: it finishes what it is just changing.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// How long an agent may be starting, or ending, without a socket for successors.
const MEETING_DEADLINE: Duration = Duration::from_secs(10);

const MEETING_INTERVAL: Duration = Duration::from_millis(20);

const HELLO: &str = "take-over 1";
const WAIT: &str = "wait";
const DRAIN: &str = "drain";
const ABORT: &str = "abort";
const FROZEN: &str = "frozen ";
const DRAINED: &str = "drained";
const RESTORED: &str = "restored";

/// One side's end of the dialogue.
struct Dialogue {
    lines: Lines<BufReader<OwnedReadHalf>>,
    out: OwnedWriteHalf,
}

impl Dialogue {
    fn new(stream: UnixStream) -> Self {
        let (read, out) = stream.into_split();
        Self { lines: BufReader::new(read).lines(), out }
    }

    async fn say(&mut self, line: &str) -> io::Result<()> {
        self.out.write_all(format!("{line}\n").as_bytes()).await
    }

    /// The next line; an error also when the other side is gone, or says nothing in time.
    async fn hear(&mut self, patience: Duration) -> io::Result<String> {
        timeout(patience, self.lines.next_line())
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("silent for {patience:?}")))??
            .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the other process is gone"))
    }
}

/// The old agent's half: serves successors until one has taken over. `announced` is given up then, and not before.
pub(super) async fn offer(listener: UnixListener, agent: Arc<Agent>, announced: Announced) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::warn!("a successor cannot be accepted: {e}");
                tokio::time::sleep(MEETING_INTERVAL).await;
                continue;
            }
        };
        let mut dialogue = Dialogue::new(stream);
        match give(&mut dialogue, &agent).await {
            Ok(()) => {
                drop(announced);
                // It sees the lock free even if this does not reach it.
                drop(dialogue.say(DRAINED).await);
                return;
            }
            Err(why) => tracing::error!("nobody took over, this agent goes on: {why}"),
        }
    }
}

/// Freezes until the successor serves; takes everything back if it does not.
async fn give(dialogue: &mut Dialogue, agent: &Arc<Agent>) -> io::Result<()> {
    let hello = dialogue.hear(SILENCE).await?;
    if hello != HELLO {
        let why = format!("a successor speaks another version of the protocol: {hello:?}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let frozen = agent.freeze().await;
    if agent.has_given_up() {
        return Err(io::Error::other("this agent takes everything away and has nothing to hand over"));
    }
    tracing::info!("frozen: another agent is taking over");
    let taken = async {
        dialogue.say(&format!("{FROZEN}{}", agent.last_id())).await?;
        loop {
            match dialogue.hear(SILENCE).await?.as_str() {
                WAIT => {}
                DRAIN => return Ok(()),
                ABORT => return Err(io::Error::other("the successor gave up; its log says why")),
                other => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it said {other:?}")));
                }
            }
        }
    };
    if let Err(why) = taken.await {
        let restoring = Arc::clone(agent);
        let refused =
            tokio::task::spawn_blocking(move || restoring.restore()).await.map_err(io::Error::other)?;
        drop(frozen);
        drop(dialogue.say(RESTORED).await);
        return Err(if refused == 0 {
            why
        } else {
            io::Error::other(format!("{why}; {refused} workloads are refused"))
        });
    }
    agent.hand_over(frozen);
    Ok(())
}

/// What a starting agent finds.
pub(super) enum Found {
    /// Nobody: the role is ours.
    Nobody(Announced),
    /// An agent that waits for us.
    Old(Box<Old>),
}

/// An agent that is being taken over, and frozen.
pub(super) struct Old {
    dialogue: Dialogue,
    last_id: u32,
}

/// Meets the agent that runs, and freezes it. Finds nobody when none runs, or when it dies meanwhile.
pub(super) async fn meet(run_dir: &RunDir, candidate: &Candidate) -> anyhow::Result<Found> {
    let meeting = async {
        loop {
            if let Ok(announced) = candidate.announce()? {
                return anyhow::Ok(Found::Nobody(announced));
            }
            // It is just starting, or just ending.
            if let Ok(stream) = UnixStream::connect(run_dir.socket(SOCKET)).await {
                let mut dialogue = Dialogue::new(stream);
                dialogue.say(HELLO).await.context("the running agent")?;
                let answer = dialogue
                    .hear(ANSWER_DEADLINE)
                    .await
                    .context("the running agent does not let itself be taken over (does it hang? end it, and start again)")?;
                let last_id = answer.strip_prefix(FROZEN).and_then(|id| id.parse().ok());
                let last_id = last_id.with_context(|| format!("the running agent said {answer:?}"))?;
                return Ok(Found::Old(Box::new(Old { dialogue, last_id })));
            }
            tokio::time::sleep(MEETING_INTERVAL).await;
        }
    };
    timeout(MEETING_DEADLINE + ANSWER_DEADLINE, meeting).await.unwrap_or_else(|_| {
        bail!("an agent runs with {} and cannot be taken over: stop it first", run_dir.path().display())
    })
}

impl Old {
    /// The number of its last workload.
    pub(super) fn last_id(&self) -> u32 {
        self.last_id
    }

    /// Says again and again that we are at work.
    pub(super) async fn keep_waiting(&mut self) -> Infallible {
        let mut words = interval(WORD_INTERVAL);
        loop {
            words.tick().await;
            // It may be gone: then nobody has to be told.
            drop(self.dialogue.say(WAIT).await);
        }
    }

    /// We serve: it drains, and the role becomes ours.
    pub(super) async fn dismiss(mut self, candidate: &Candidate) -> anyhow::Result<Announced> {
        let said = match self.dialogue.say(DRAIN).await {
            Ok(()) => self.dialogue.hear(ANSWER_DEADLINE).await,
            Err(e) => Err(e),
        };
        match said.as_deref() {
            Ok(DRAINED) => {}
            // It has given up on us, and acts again.
            Ok(other) => bail!("the running agent has taken its workloads back (it said {other:?})"),
            Err(e) => tracing::warn!("the agent that is taken over does not answer: {e}"),
        }
        let role = async {
            loop {
                if let Ok(announced) = candidate.announce()? {
                    return anyhow::Ok(announced);
                }
                tokio::time::sleep(MEETING_INTERVAL).await;
            }
        };
        timeout(ANSWER_DEADLINE, role).await.context("the agent that is taken over keeps the role")?
    }

    /// We cannot serve: it takes everything back. Returns when it has.
    pub(super) async fn give_back(mut self) {
        let said = match self.dialogue.say(ABORT).await {
            Ok(()) => self.dialogue.hear(ANSWER_DEADLINE).await,
            Err(e) => Err(e),
        };
        if !matches!(said.as_deref(), Ok(RESTORED)) {
            tracing::error!(
                "whether the running agent has its workloads back is not known: it said {said:?}"
            );
        }
    }
}
