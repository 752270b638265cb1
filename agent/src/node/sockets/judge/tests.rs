//! Every verdict, and the order between the questions.

use super::*;
use crate::node::sockets::message::Protocol;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn socket(state: State, local: &str, remote: &str) -> Socket {
    Socket::for_test(Protocol::Tcp, state, at(local), at(remote))
}

fn outward() -> Socket {
    socket(State::Established, "192.0.2.1:40000", "203.0.113.7:80")
}

struct World {
    direct: Direct,
    ever: Direct,
    first: bool,
}

impl World {
    fn new() -> Self {
        let direct = Direct::new(&["10.0.0.0/8".parse().unwrap()], &[at("192.0.2.53:53")]);
        let ever = Direct::new(&["172.16.0.0/12".parse().unwrap()], &[]).and(&direct);
        Self { direct, ever, first: false }
    }

    fn judge(&self, socket: &Socket, standing: Option<Standing>) -> Verdict {
        let rules =
            Rules { direct: &self.direct, direct_ever: &self.ever, first: self.first, end_older: false };
        let listening = Listening::of(&[
            socket_listening("0.0.0.0:8080"),
            socket_listening("192.0.2.1:8081"),
            socket_listening("[::]:8082"),
        ]);
        judge(socket, standing, &rules, &listening)
    }
}

fn socket_listening(local: &str) -> Socket {
    socket(State::Listen, local, "0.0.0.0:0")
}

#[test]
fn what_goes_out_unseen_has_escaped() {
    let world = World::new();
    assert_eq!(world.judge(&outward(), None), Verdict::Escaped);
    for state in [State::FinWait1, State::FinWait2, State::CloseWait, State::LastAck, State::Closing] {
        assert_eq!(world.judge(&Socket { state, ..outward() }, None), Verdict::Escaped, "{state:?}");
    }
    let v6 = socket(State::Established, "[2001:db8::1]:40000", "[2001:db8:7::7]:443");
    assert_eq!(world.judge(&v6, None), Verdict::Escaped);
}

#[test]
fn what_does_not_go_out_is_regular() {
    let world = World::new();
    for regular in [
        socket_listening("0.0.0.0:80"),
        socket(State::SynSent, "192.0.2.1:40000", "203.0.113.7:80"),
        socket(State::Established, "127.0.0.1:40000", "127.0.0.1:15001"),
        socket(State::Established, "[::1]:40000", "[::1]:15006"),
        socket(State::Established, "192.0.2.1:40000", "10.1.2.3:80"),
        socket(State::Established, "192.0.2.1:40000", "192.0.2.53:53"),
        Socket { marked: true, ..outward() },
    ] {
        assert_eq!(world.judge(&regular, None), Verdict::Regular, "{regular:?}");
    }
    let other_port = socket(State::Established, "192.0.2.1:40000", "192.0.2.53:80");
    assert_eq!(world.judge(&other_port, None), Verdict::Escaped);
}

#[test]
fn what_came_in_is_known_by_its_port() {
    let mut world = World::new();
    for first in [true, false] {
        world.first = first;
        for (local, expected) in [
            ("192.0.2.1:8080", Verdict::FromOutside),
            ("192.0.2.1:8081", Verdict::FromOutside),
            ("192.0.2.1:8082", Verdict::FromOutside),
            ("192.0.2.2:8081", if first { Verdict::Older } else { Verdict::Escaped }),
        ] {
            let socket = socket(State::Established, local, "203.0.113.7:40000");
            assert_eq!(world.judge(&socket, None), expected, "{local}");
        }
    }
}

#[test]
fn the_first_look_finds_older_ones() {
    let world = World { first: true, ..World::new() };
    assert_eq!(world.judge(&outward(), None), Verdict::Older);
    assert_eq!(world.judge(&Socket { state: State::SynSent, ..outward() }, None), Verdict::Older);
}

#[test]
fn a_permission_that_went_leaves_older_ones() {
    let world = World::new();
    let formerly = socket(State::Established, "192.0.2.1:40000", "172.16.0.1:80");
    assert_eq!(world.judge(&formerly, None), Verdict::Older);
}

#[test]
fn what_was_said_once_counts() {
    let world = World::new();
    for (standing, expected) in [
        (Standing::FromOutside, Verdict::Regular),
        (Standing::Kept, Verdict::Older),
        (Standing::Ended, Verdict::Ended),
    ] {
        assert_eq!(world.judge(&outward(), Some(standing)), expected);
    }
    // Also when its permission came back.
    let permitted = socket(State::Established, "192.0.2.1:40000", "10.1.2.3:80");
    assert_eq!(world.judge(&permitted, Some(Standing::Ended)), Verdict::Regular);
}

#[test]
fn ranges_mean_what_they_mean_to_the_kernel() {
    let mapped = Direct::new(&["::ffff:10.0.0.0/104".parse().unwrap()], &[at("[::ffff:192.0.2.53]:53")]);
    assert!(mapped.permits(at("10.1.2.3:80")) && mapped.permits(at("192.0.2.53:53")));
    let everything_v6 = Direct::new(&["::/0".parse().unwrap()], &[]);
    assert!(everything_v6.permits(at("[2001:db8::1]:80")) && !everything_v6.permits(at("10.1.2.3:80")));
}
