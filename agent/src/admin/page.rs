//! The page of one gateway, served by itself: what it knows alone, read-only, on its own loopback.
//!
//! On a cluster that is reached by who may forward ports of its pod, and read by who may run commands in it: the address with the token
//! is told on the admin socket only (`egret ui --gateway`).

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::server::{Ask, GatewayState};
use crate::{
    flow::{self, FlowQuery},
    survey::{flows::PlacedFlow, health::Health},
    ui::Source,
};

/// How long an answer serves: each looks through all flows.
const FRESH: Duration = Duration::from_secs(2);

/// Where it is: the answer of `/page`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayPage {
    /// Its address, with the token.
    pub url: String,
}

impl<R: Ask> Source for GatewayState<R> {
    fn fresh(&self) -> Duration {
        FRESH
    }

    fn is_cluster(&self) -> bool {
        self.cluster.is_some()
    }

    fn scope(&self) -> Option<String> {
        let name = self.cluster.as_ref().map(|cluster| format!(", {}", cluster.own.name)).unwrap_or_default();
        Some(format!(
            "The view of one gateway{name}: what others carried, and what only agents know, is on the page of `egret ui`."
        ))
    }

    async fn flows(&self, query: FlowQuery) -> Result<(Vec<PlacedFlow>, Vec<String>), String> {
        let (table, name) =
            (self.flows.clone(), self.cluster.as_ref().map(|cluster| cluster.own.name.clone()));
        // Of a large table it takes milliseconds, in which this thread is to serve others.
        let looked = tokio::task::spawn_blocking(move || {
            let records = table.select(&query).into_iter().map(Arc::unwrap_or_clone).collect();
            let placed = |joined| PlacedFlow { gateway_pod: name.clone(), ..PlacedFlow::from(joined) };
            let mut flows: Vec<_> = flow::join(Vec::new(), records).into_iter().map(placed).collect();
            flows.retain(|flow| query.selects(&flow.joined.flow));
            flows.sort_by_key(|flow| query.sort.key(&flow.joined.flow));
            flows
        });
        Ok((looked.await.map_err(|e| e.to_string())?, Vec::new()))
    }

    async fn health(&self) -> Result<Health, String> {
        let status = self.status().map_err(|(_, why)| why);
        Ok(Health::of_gateway(status.as_ref().map_err(String::as_str)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use axum::{
        body::Body,
        http::{Request, StatusCode},
    };
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::super::{Ready, Stage, gateway};
    use super::*;
    use crate::{
        flow::{FlowId, FlowTable, Side},
        ui::{self, Token},
    };

    fn state(page: Option<&str>) -> GatewayState<impl Ask> {
        let flows = FlowTable::new(Side::Gateway, 9);
        let workload: crate::mesh::SpiffeId = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
        drop(flows.open(FlowId::random(), workload, "203.0.113.7:80".parse().unwrap()));
        GatewayState {
            configured: Arc::new(OnceLock::new()),
            serving: Arc::new(OnceLock::new()),
            flows,
            readiness: || Ready { ready: false, pid: 1, stage: Stage::default(), problems: Vec::new() },
            cluster: None,
            page: page.map(|url| GatewayPage { url: url.to_owned() }),
        }
    }

    async fn ask(router: axum::Router, path: &str, headers: &[(&str, &str)]) -> (StatusCode, String) {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_gateway_shows_what_it_knows_to_who_has_the_token() {
        let token = Token::random();
        let router = ui::router(ui::api(state(None)), &token);
        let bearer = format!("Bearer {token}");
        let known = [("host", "localhost:15000"), ("authorization", bearer.as_str())];
        let (status, flows) = ask(router.clone(), "/api/flows?namespace=shop", &known).await;
        let flows: serde_json::Value = serde_json::from_str(&flows).unwrap();
        assert_eq!((status, flows["flows"].as_array().unwrap().len()), (StatusCode::OK, 1));
        assert_eq!(flows["flows"][0]["namespace"], "shop");
        assert!(flows["scope"].as_str().unwrap().contains("one gateway"), "{flows}");
        let (_, others) = ask(router.clone(), "/api/flows?namespace=other", &known).await;
        assert!(others.contains("\"flows\":[]"), "{others}");
        // Before it is configured it says so, and does not fail.
        let (status, health) = ask(router.clone(), "/api/health", &known).await;
        assert_eq!(status, StatusCode::OK);
        assert!(
            health.contains("no configuration yet") && !health.contains("\"role\":\"agent\""),
            "{health}"
        );
        for wrong in [
            &[("host", "localhost:15000")][..],
            &[("host", "localhost:15000"), ("authorization", "Bearer 0")],
        ] {
            assert_eq!(ask(router.clone(), "/api/flows", wrong).await.0, StatusCode::UNAUTHORIZED);
        }
        let foreign = [("host", "evil.example"), ("authorization", bearer.as_str())];
        assert_eq!(ask(router, "/api/flows", &foreign).await.0, StatusCode::FORBIDDEN);
    }

    #[tokio::test]
    async fn where_it_is_is_told_on_the_admin_socket_only() {
        let url = "http://127.0.0.1:15000/#secret";
        let (status, told) = ask(gateway(state(Some(url))), "/page", &[]).await;
        assert_eq!((status, told.as_str()), (StatusCode::OK, "{\"url\":\"http://127.0.0.1:15000/#secret\"}"));
        let (status, told) = ask(gateway(state(None)), "/page", &[]).await;
        assert!(status == StatusCode::NOT_FOUND && told.contains("--page-address"), "{told}");
        let page = ui::router(ui::api(state(Some(url))), &Token::random());
        for path in ["/page", "/status", "/metrics", "/explain"] {
            let (status, told) = ask(page.clone(), path, &[("host", "localhost")]).await;
            assert!(status == StatusCode::NOT_FOUND && !told.contains("secret"), "{path}: {told}");
        }
    }
}
