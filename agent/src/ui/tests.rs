//! The page and its guard, without a network.

use axum::{
    Router,
    body::Body,
    http::{Request, Response, StatusCode},
    routing::get,
};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::{Token, router};

struct Page {
    router: Router,
    token: Token,
}

impl Page {
    fn new() -> Self {
        let token = Token::random();
        let api = Router::new().route("/api/flows", get(|| async { "secret" }));
        Self { router: router(api, &token), token }
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Response<Body> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    async fn status(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
        self.ask(method, path, headers).await.status().as_u16()
    }
}

const HERE: (&str, &str) = ("host", "127.0.0.1:8020");

#[tokio::test]
async fn the_api_wants_the_token() {
    let page = Page::new();
    let right = format!("Bearer {}", page.token);
    assert_eq!(page.token.to_string().len(), 32);
    assert_ne!(page.token.to_string(), Token::random().to_string());
    let wrong = format!("Bearer {}", Token::random());
    assert_eq!(page.status("GET", "/api/flows", &[HERE, ("authorization", &right)]).await, 200);
    for given in [wrong.as_str(), "Bearer ", "", &right[..right.len() - 1], &right[7..]] {
        let answer = page.ask("GET", "/api/flows", &[HERE, ("authorization", given)]).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{given}");
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(!body.starts_with(b"secret"), "{given}");
    }
    assert_eq!(page.status("GET", "/api/flows", &[HERE]).await, 401);
}

#[tokio::test]
async fn no_name_but_its_own_is_answered() {
    let page = Page::new();
    let right = format!("Bearer {}", page.token);
    for name in ["127.0.0.1:8020", "localhost", "LocalHost:99", "[::1]:8020", "127.0.0.1"] {
        assert_eq!(page.status("GET", "/", &[("host", name)]).await, 200, "{name}");
    }
    for name in
        ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8020", "192.0.2.1", "0.0.0.0", ""]
    {
        for path in ["/", "/app.js", "/api/flows"] {
            let headers = [("host", name), ("authorization", right.as_str())];
            assert_eq!(page.status("GET", path, &headers).await, 403, "{name} {path}");
        }
    }
    assert_eq!(page.status("GET", "/", &[]).await, 403, "no name at all");
    assert_eq!(page.status("GET", "/", &[HERE, ("host", "evil.example")]).await, 403, "two names");
}

#[tokio::test]
async fn nothing_can_be_changed_and_nothing_else_is_there() {
    let page = Page::new();
    let right = format!("Bearer {}", page.token);
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        for path in ["/", "/api/flows"] {
            assert_eq!(
                page.status(method, path, &[HERE, ("authorization", &right)]).await,
                405,
                "{method} {path}"
            );
        }
    }
    for path in ["/workloads", "/status", "/index.html", "/../app.js", "/api/"] {
        assert_eq!(page.status("GET", path, &[HERE]).await, 404, "{path}");
    }
}

#[tokio::test]
async fn the_page_runs_its_own_script_only_and_fetches_nothing_from_elsewhere() {
    let page = Page::new();
    for path in ["/", "/style.css", "/app.js", "/api/flows", "/none"] {
        let answer = page.ask("GET", path, &[HERE]).await;
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(
            (header("x-content-type-options"), header("cache-control")),
            ("nosniff".into(), "no-store".into())
        );
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        // Names of XML are no addresses that are fetched.
        let text = text.replace("http://www.w3.org/2000/svg", "");
        for mark in [
            "http:",
            "https:",
            "//cdn",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
        ] {
            assert!(!text.contains(mark), "{path}: {mark}");
        }
    }
}
