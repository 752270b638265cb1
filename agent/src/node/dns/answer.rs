//! DNS messages (RFC 1035) of our own: reads queries that we could answer, and writes the answers. The wire format is the
//! library's. Decides nothing about names.

use std::net::IpAddr;

use hickory_resolver::proto::{
    op::{Edns, Message, MessageType, OpCode, ResponseCode},
    rr::{DNSClass, RData, Record, RecordType},
};

/// How long clients may keep an answer, in seconds.
const TTL: u32 = 30;
/// The largest datagram that we announce to take: what passes everywhere without fragments (DNS flag day 2020).
const MAX_PAYLOAD: u16 = 1232;

/// A query with one question about a host of the Internet class, and that host: lower case, without the final dot. None:
/// anything else, which is for the resolver to understand.
pub(super) fn read(bytes: &[u8]) -> Option<(Message, String)> {
    let query = Message::from_vec(bytes).ok()?;
    let [question] = &query.queries[..] else { return None };
    let ours = query.metadata.message_type == MessageType::Query
        && query.metadata.op_code == OpCode::Query
        && query.edns.as_ref().is_none_or(|edns| edns.version() == 0)
        && question.query_class() == DNSClass::IN;
    // Labels are escaped: one with a dot in it is not taken for two.
    let mut host = question.name().to_ascii().to_ascii_lowercase();
    if host.ends_with('.') {
        host.pop();
    }
    (ours && !host.is_empty()).then_some((query, host))
}

/// The answer with those of `addresses` that are of the type asked for. There is no other type: a known host has no HTTPS or
/// SVCB record, which would lead clients elsewhere.
pub(super) fn addresses(query: &Message, addresses: &[IpAddr], datagram: bool) -> Option<Vec<u8>> {
    let mut answer = response(query, ResponseCode::NoError)?;
    let question = query.queries.first()?;
    for address in addresses {
        let data = match (question.query_type(), address) {
            (RecordType::A, IpAddr::V4(ip)) => RData::A((*ip).into()),
            (RecordType::AAAA, IpAddr::V6(ip)) => RData::AAAA((*ip).into()),
            _ => continue,
        };
        answer.add_answer(Record::from_rdata(question.name().clone(), TTL, data));
    }
    let bytes = answer.to_vec().ok()?;
    if datagram && bytes.len() > usize::from(query.max_payload()) {
        return answer.truncate().to_vec().ok();
    }
    Some(bytes)
}

/// The answer that something is wrong here.
pub(super) fn failure(query: &Message) -> Option<Vec<u8>> {
    response(query, ResponseCode::ServFail)?.to_vec().ok()
}

/// The same for a query that was to be forwarded. None: it is not even a query.
pub(super) fn failure_of(bytes: &[u8]) -> Option<Vec<u8>> {
    let query = Message::from_vec(bytes).ok()?;
    (query.metadata.message_type == MessageType::Query).then(|| failure(&query)).flatten()
}

fn response(query: &Message, code: ResponseCode) -> Option<Message> {
    let mut answer = Message::error_msg(query.metadata.id, query.metadata.op_code, code);
    answer.metadata.recursion_desired = query.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.metadata.checking_disabled = query.metadata.checking_disabled;
    answer.metadata.authoritative = code == ResponseCode::NoError;
    answer.add_query(query.queries.first()?.clone());
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_PAYLOAD);
        answer.set_edns(edns);
    }
    Some(answer)
}
