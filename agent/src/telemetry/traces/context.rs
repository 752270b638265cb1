//! Which trace a request belongs to, by W3C Trace Context, and whether it is traced here.
//!
//! Pure. The decision is the parent's where there is one (OpenTelemetry's `ParentBased` sampler): who began a trace has decided for
//! all of it.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use rand::{Rng, RngExt as _};

/// Names trace and parent.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What tracing systems have to say to each other; belongs to `traceparent`.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// A span that has begun.
#[derive(Clone, Debug, PartialEq)]
pub struct Begun {
    /// Its own context.
    pub context: SpanContext,
    /// Its parent; absent: it is the first of its trace.
    pub parent: Option<SpanId>,
}

/// The span that a request comes from; none where the header is missing, malformed or repeated (§3.2).
pub fn parent_of(headers: &HeaderMap) -> Option<SpanContext> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let states: Vec<&str> =
        headers.get_all(TRACESTATE).iter().filter_map(|value| value.to_str().ok()).collect();
    parse(value.to_str().ok()?, &states.join(","))
}

/// Reads `traceparent`, of this version of the format or a later one (§3.2.4), and a `tracestate`, which counts as absent where it is
/// malformed.
pub fn parse(traceparent: &str, tracestate: &str) -> Option<SpanContext> {
    let mut parts = traceparent.splitn(5, '-');
    let mut hex = |length: usize| {
        parts.next().filter(|part| {
            part.len() == length
                && part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        })
    };
    let (version, trace, span, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
    if version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let state: TraceState = tracestate.parse().unwrap_or_default();
    let context = SpanContext::new(trace, span, flags, true, state);
    context.is_valid().then_some(context)
}

/// Begins a span, if there is to be one: as the parent says, else for this share (0 to 1) of what comes without.
pub fn begin(parent: Option<SpanContext>, share: f64, random: &mut impl Rng) -> Option<Begun> {
    let (trace, state, parent) = match parent {
        Some(parent) if parent.is_sampled() => {
            (parent.trace_id(), parent.trace_state().clone(), Some(parent.span_id()))
        }
        None if random.random::<f64>() < share => {
            // Zero would be none.
            (TraceId::from(random.random::<u128>().max(1)), TraceState::default(), None)
        }
        Some(_) | None => return None,
    };
    let span = SpanId::from(random.random::<u64>().max(1));
    Some(Begun { context: SpanContext::new(trace, span, TraceFlags::SAMPLED, false, state), parent })
}

/// Makes a request the span's. Its `tracestate` stays, unless it is of no trace.
pub fn propagate(begun: &Begun, headers: &mut HeaderMap) {
    let context = &begun.context;
    let value = format!("00-{}-{}-01", context.trace_id(), context.span_id());
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(TRACEPARENT, value);
    }
    if begun.parent.is_none() {
        headers.remove(TRACESTATE);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;

    use super::{TRACEPARENT, TRACESTATE, begin, parent_of, parse, propagate};

    const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-02";

    fn headers(parents: &[&'static str], states: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in parents {
            headers.append(TRACEPARENT, value.parse().unwrap());
        }
        for value in states {
            headers.append(TRACESTATE, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn the_parent_is_read_with_all_of_its_state() {
        let parent = parent_of(&headers(&[SAMPLED], &["a=1", "b=2"])).unwrap();
        assert_eq!(parent.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(parent.span_id().to_string(), "b7ad6b7169203331");
        assert!(parent.is_sampled() && parent.is_remote());
        assert_eq!(parent.trace_state().header(), "a=1,b=2");
        assert!(!parent_of(&headers(&[UNSAMPLED], &[])).unwrap().is_sampled());
        assert!(parent_of(&headers(&[SAMPLED], &["nonsense"])).unwrap().trace_state().header().is_empty());
    }

    #[test]
    fn what_is_no_parent_is_none() {
        assert_eq!(parent_of(&headers(&[], &["a=1"])), None);
        assert_eq!(parent_of(&headers(&[SAMPLED, SAMPLED], &[])), None);
        for bad in [
            "",
            "00",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "+0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(parse(bad, ""), None, "{bad}");
        }
        assert!(parse("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", "").is_some());
    }

    #[test]
    fn who_began_a_trace_has_decided_for_all_of_it() {
        let mut random = rand::rng();
        let child = begin(parse(SAMPLED, "a=1"), 0.0, &mut random).unwrap();
        assert_eq!(child.context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(child.parent.unwrap().to_string(), "b7ad6b7169203331");
        assert_ne!(child.context.span_id(), child.parent.unwrap());
        assert_eq!(begin(parse(UNSAMPLED, ""), 1.0, &mut random), None);
        assert_eq!(begin(None, 0.0, &mut random), None);
        assert_eq!(begin(None, 1.0, &mut random).unwrap().parent, None);
    }

    #[test]
    fn the_next_hop_has_this_span_for_parent() {
        let mut random = rand::rng();
        for (parent, state) in [(parse(SAMPLED, "a=1"), Some("a=1")), (None, None)] {
            let begun = begin(parent, 1.0, &mut random).unwrap();
            let mut headers = headers(&["nonsense"], &["a=1"]);
            propagate(&begun, &mut headers);
            let next = parent_of(&headers).unwrap();
            assert_eq!(next.trace_id(), begun.context.trace_id());
            assert_eq!(next.span_id(), begun.context.span_id());
            assert_eq!(headers.get(TRACESTATE).map(|value| value.to_str().unwrap()), state);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_parent_or_none(parent in ".*", state in ".*") {
            drop(parse(&parent, &state));
        }

        #[test]
        fn anything_like_a_parent_is_one_or_none(
            parent in "[0-9a-f]{2}-[0-9a-fA-F]{31,33}-[0-9a-f]{15,17}-[0-9a-f]{1,3}-?", state in "([a-z]{0,3}=\\PC{0,3},?){0,4}"
        ) {
            if let Some(context) = parse(&parent, &state) {
                prop_assert!(context.is_valid() && parent.len() >= 55);
            }
        }

        #[test]
        fn about_the_share_is_sampled(percent in 0_u32..=100) {
            let share = f64::from(percent) / 100.0;
            let mut random = rand::rng();
            let sampled = (0..2_000).filter(|_| begin(None, share, &mut random).is_some()).count();
            // Nine standard deviations.
            prop_assert!((sampled as f64 - 2_000.0 * share).abs() <= 202.0, "{sampled} of 2000 at {percent} %");
        }
    }
}
