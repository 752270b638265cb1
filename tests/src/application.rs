//! An application that connects and serves as a test tells it (`src/bin/connector.rs` has the commands), and the far end of its
//! connections. Panics where it does not work: for tests only.

use std::{
    env,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{cgroup::Cgroup, netns::Namespace};

/// How long the far end waits for something to come.
const PATIENCE: Duration = Duration::from_mins(1);

/// A process that runs until it is dropped.
pub struct Application {
    process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Application {
    /// Starts one in the network namespace of the calling thread.
    pub fn start(cgroup: Option<&Cgroup>) -> Self {
        Self::spawn(&mut Command::new(Self::program()), cgroup)
    }

    /// Starts one in another network namespace.
    pub fn start_in(namespace: &Namespace, cgroup: Option<&Cgroup>) -> Self {
        Self::spawn(&mut namespace.command(&Self::program()), cgroup)
    }

    /// Cargo builds it for the tests: beside the directory that they are in.
    fn program() -> std::path::PathBuf {
        let test = env::current_exe().expect("the path of the test");
        test.ancestors().nth(2).expect("a test below the target directory").join("connector")
    }

    fn spawn(command: &mut Command, cgroup: Option<&Cgroup>) -> Self {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("connector");
        if let Some(cgroup) = cgroup {
            // It makes no socket before its first command.
            cgroup.add(process.id()).expect("moved into the cgroup");
        }
        let commands = process.stdin.take().expect("piped");
        let answers = BufReader::new(process.stdout.take().expect("piped"));
        Self { process, commands, answers }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Gives a command and returns the answer.
    pub fn run(&mut self, command: &str) -> String {
        writeln!(self.commands, "{command}").expect("command");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("answer");
        answer.trim_end().to_owned()
    }

    /// Connects; what getpeername says, or the errno.
    pub fn connect(&mut self, address: &str) -> String {
        self.run(&format!("connect {address}"))
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        // It may have been killed with its cgroup.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The answer for an errno.
pub fn errno(number: nix::errno::Errno) -> String {
    format!("errno {}", number as i32)
}

/// The far end of a connection: sends back what comes, and says how it ended.
pub fn echo(mut stream: TcpStream) -> JoinHandle<io::Result<()>> {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    thread::spawn(move || {
        let mut bytes = [0; 64];
        loop {
            let length = stream.read(&mut bytes)?;
            if length == 0 {
                return Ok(());
            }
            stream.write_all(&bytes[..length])?;
        }
    })
}

/// What a destroyed socket says, once, and that its far end was reset.
#[track_caller]
pub fn assert_ended(application: &mut Application, far_end: JoinHandle<io::Result<()>>) {
    assert_eq!(application.run("talk hello"), errno(nix::errno::Errno::ECONNABORTED));
    let end = far_end.join().expect("no panic").expect_err("reset");
    assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
}
