//! Reads one entry of a VirtualService's `http`.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::virtual_service::{destination, gateway_names, settle_weights};
use crate::{
    mesh::{
        HeaderMatch, HttpAction, HttpMatch, HttpRoute, RedirectPort, Rewrite, TextMatch, UriMatch,
        WeightedDestination,
    },
    route::HeaderOperations,
    source::{
        codes,
        fields::{Field, Fields},
        report::Severity,
        scalars::{self, StringMatch},
    },
};

type Operations = Option<Arc<HeaderOperations>>;

pub(super) fn read(field: &Field<'_>, index: usize, own: &Arc<str>) -> Option<HttpRoute> {
    let mut fields = field.fields()?;
    let name = fields.text("name").filter(|name| !name.is_empty()).unwrap_or_else(|| index.to_string());
    let mut matches: Vec<_> = fields.items("match").iter().filter_map(|f| http_match(f, own)).collect();
    if matches.is_empty() {
        matches.push(HttpMatch::default());
    }
    let route = fields.take("route").map(|f| destinations(&f, own));
    let redirect = fields.take("redirect").map(|f| redirect(&f));
    let respond = fields.take("directResponse").map(|f| respond(&f));
    let rewrite = fields.take("rewrite").and_then(|f| rewrite(&f));
    let (request_headers, response_headers) = headers(&mut fields);
    let timeout = fields.take("timeout").and_then(|f| f.parse(scalars::duration)).filter(|t| !t.is_zero());
    if let Some(mut fault) = fields.take("fault").and_then(|f| f.fields()) {
        fault.without_effect(&["delay"]);
        // An abort may be there to keep requests out.
        fault.unsupported(&["abort"], "use directResponse, or an AuthorizationPolicy");
        fault.finish();
    }
    fields.unsupported(&["delegate"], "write the routes into this VirtualService");
    fields.without_effect(&[
        "retries",
        "mirror",
        "mirrors",
        "mirrorPercent",
        "mirror_percent",
        "mirrorPercentage",
        "corsPolicy",
    ]);
    fields.finish();
    let action = match (route, redirect, respond) {
        (Some(route), None, None) => HttpAction::Route(route),
        (None, Some(redirect), None) => redirect?,
        (None, None, Some(respond)) => respond?,
        (None, None, None) => {
            field.refuse("needs one of route, redirect and directResponse");
            return None;
        }
        _ => {
            field.refuse("takes only one of route, redirect and directResponse");
            return None;
        }
    };
    Some(HttpRoute {
        name: name.into(),
        matches,
        action,
        rewrite,
        request_headers,
        response_headers,
        timeout,
    })
}

fn http_match(field: &Field<'_>, own: &Arc<str>) -> Option<HttpMatch> {
    let mut fields = field.fields()?;
    let text = |field: Option<Field<'_>>| -> Option<TextMatch> {
        let field = field?;
        match scalars::string_match(&field)? {
            StringMatch::Text(text) => Some(text),
            StringMatch::Anything => {
                field.refuse("needs one of exact, prefix and regex");
                None
            }
        }
    };
    let ignore_case = fields.take("ignoreUriCase").and_then(|f| f.flag()).unwrap_or_default();
    let wanted = HttpMatch {
        uri: text(fields.take("uri")).map(|text| UriMatch { text, ignore_case }),
        scheme: text(fields.take("scheme")),
        method: text(fields.take("method")),
        authority: text(fields.take("authority")),
        headers: header_matches(fields.take("headers")),
        without_headers: header_matches(fields.take("withoutHeaders")),
        query: fields
            .take("queryParams")
            .map(|f| f.entries())
            .unwrap_or_default()
            .into_iter()
            .filter_map(|(name, field)| {
                let value = match scalars::string_match(&field)? {
                    StringMatch::Text(text) => text,
                    // Whatever is there, the empty value included.
                    StringMatch::Anything => TextMatch::Prefix("".into()),
                };
                Some((name.into(), value))
            })
            .collect(),
        port: fields.take("port").and_then(|f| f.port()),
        gateways: gateway_names(&mut fields, own),
        source_namespace: fields.text("sourceNamespace").map(Into::into),
    };
    fields.unsupported(&["sourceLabels"], "use sourceNamespace, or an AuthorizationPolicy");
    fields.ignore(&["name", "statPrefix"]);
    fields.finish();
    Some(wanted)
}

fn header_matches(field: Option<Field<'_>>) -> Vec<HeaderMatch> {
    let entries = field.map(|field| field.entries()).unwrap_or_default();
    entries
        .into_iter()
        .filter_map(|(name, field)| {
            let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
                field.refuse(format!(
                    "{name:?} is not a header name; use uri, method, authority or scheme for those"
                ));
                return None;
            };
            let value = match scalars::string_match(&field)? {
                StringMatch::Text(text) => Some(text),
                StringMatch::Anything => None,
            };
            Some(HeaderMatch { name, value })
        })
        .collect()
}

fn destinations(field: &Field<'_>, own: &Arc<str>) -> Vec<WeightedDestination> {
    let mut found = Vec::new();
    for item in field.items() {
        let Some(mut fields) = item.fields() else { continue };
        let to = fields.need("destination").and_then(|f| destination(&f, own));
        let weight = fields.take("weight").and_then(|f| f.number(0, u32::MAX));
        let (request_headers, response_headers) = headers(&mut fields);
        fields.finish();
        let Some(destination) = to else { continue };
        found.push((
            WeightedDestination { destination, weight: 0, request_headers, response_headers },
            weight,
        ));
    }
    if found.is_empty() {
        field.refuse("needs a destination");
        return Vec::new();
    }
    settle_weights(field, found)
}

fn redirect(field: &Field<'_>) -> Option<HttpAction> {
    let mut fields = field.fields()?;
    let uri: Option<Arc<str>> = fields.text("uri").map(Into::into);
    let authority: Option<Arc<str>> = fields.text("authority").map(Into::into);
    let scheme = fields.take("scheme").and_then(|f| f.one_of(&[("http", "http"), ("https", "https")]));
    let number = fields.take("port").and_then(|f| f.port()).map(RedirectPort::Number);
    let derived = fields.take("derivePort").and_then(|f| {
        f.one_of(&[
            ("FROM_PROTOCOL_DEFAULT", RedirectPort::ProtocolDefault),
            ("FROM_REQUEST_PORT", RedirectPort::Request),
        ])
    });
    let status = fields.take("redirectCode").map_or(Some(301), |f| f.number(300, 399))?;
    fields.finish();
    let port = number.or(derived);
    if uri.is_none() && authority.is_none() && scheme.is_none() && port.is_none() {
        field.refuse("a redirect needs uri, authority, scheme or port, or it leads to itself");
    }
    for value in [&uri, &authority].into_iter().flatten() {
        if HeaderValue::from_str(value).is_err() || value.contains("%PREFIX()%") {
            field.refuse(format!("{value:?} cannot be part of a Location; %PREFIX()% is not supported"));
        }
    }
    let status = u16::try_from(status).ok()?;
    Some(HttpAction::Redirect { uri, authority, scheme: scheme.map(Into::into), port, status })
}

fn respond(field: &Field<'_>) -> Option<HttpAction> {
    let mut fields = field.fields()?;
    let status = fields.need("status").and_then(|f| f.number(200, 599));
    let body = fields.take("body").and_then(|body| {
        let mut fields = body.fields()?;
        let text = fields.text("string");
        fields.unsupported(&["bytes"], "use body.string");
        fields.finish();
        text
    });
    fields.finish();
    let status = u16::try_from(status?).ok()?;
    Some(HttpAction::Respond { status, body: body.unwrap_or_default().into() })
}

fn rewrite(field: &Field<'_>) -> Option<Rewrite> {
    let mut fields = field.fields()?;
    let uri = fields.text("uri").map(Into::into);
    let authority: Option<Arc<str>> = fields.text("authority").map(Into::into);
    if authority.as_deref().is_some_and(|a| a.parse::<http::uri::Authority>().is_err()) {
        field.refuse("rewrite.authority is not a host");
    }
    fields.unsupported(&["uriRegexRewrite"], "use a prefix match with rewrite.uri");
    fields.finish();
    Some(Rewrite { uri, authority })
}

/// `headers.request` and `headers.response`.
fn headers(fields: &mut Fields<'_>) -> (Operations, Operations) {
    let Some(mut both) = fields.take("headers").and_then(|f| f.fields()) else { return (None, None) };
    let request = both.take("request").and_then(|f| operations(&f)).map(Arc::new);
    let response = both.take("response").and_then(|f| operations(&f)).map(Arc::new);
    both.finish();
    (request, response)
}

fn operations(field: &Field<'_>) -> Option<HeaderOperations> {
    let mut fields = field.fields()?;
    let mut pairs = |name: &'static str| -> Vec<(HeaderName, HeaderValue)> {
        let entries = fields.take(name).map(|f| f.entries()).unwrap_or_default();
        entries
            .iter()
            .filter_map(|(name, value)| Some((header(value, name)?, header_value(value)?)))
            .collect()
    };
    let set = pairs("set");
    let add = pairs("add");
    let remove = fields.items("remove").iter().filter_map(|f| header(f, &f.text()?)).collect();
    fields.finish();
    Some(HeaderOperations { set, add, remove })
}

fn header(field: &Field<'_>, name: &str) -> Option<HeaderName> {
    let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
        field.refuse(format!("{name:?} is not a header name"));
        return None;
    };
    if name == http::header::HOST {
        field.report(
            Severity::Error,
            codes::UNSUPPORTED,
            "Host is not changed by header operations",
            Some("use rewrite.authority".to_owned()),
        );
        return None;
    }
    // These frame the message; changing them would let one request become two.
    let framing =
        ["content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "keep-alive"];
    if framing.contains(&name.as_str()) {
        field.refuse(format!("{name} belongs to the connection and cannot be changed"));
        return None;
    }
    Some(name)
}

fn header_value(field: &Field<'_>) -> Option<HeaderValue> {
    let text = field.text()?;
    if text.replace("%%", "").contains('%') {
        field.report(
            Severity::Error,
            codes::UNSUPPORTED,
            "Envoy's %VARIABLES% are not supported",
            Some("write %% for a percent sign".to_owned()),
        );
        return None;
    }
    let value = HeaderValue::from_str(&text.replace("%%", "%")).ok();
    if value.is_none() {
        field.refuse("is not a header value");
    }
    value
}
