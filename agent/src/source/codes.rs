//! The stable codes of problems that `egret check` and `status` show.
//!
//! `EG01xx` refuse an object (or say what that means), `EG02xx` concern fields without effect, `EG03xx` are readings where
//! Egret is deliberately safer than Istio, and choices that open something, `EG04xx` concern what a cluster does not show.

/// The document is not YAML.
pub const SYNTAX: &str = "EG0101";
/// The document is not a Kubernetes object, or its name or namespace cannot be one.
pub const NOT_AN_OBJECT: &str = "EG0102";
/// A kind that Egret does not read.
pub const UNKNOWN_KIND: &str = "EG0103";
/// An object is defined more than once.
pub const DUPLICATE: &str = "EG0104";
/// A required field is missing.
pub const MISSING: &str = "EG0105";
/// A field that the kind does not have.
pub const UNKNOWN_FIELD: &str = "EG0106";
/// A value of the wrong type.
pub const TYPE: &str = "EG0107";
/// A value that is not allowed.
pub const VALUE: &str = "EG0108";
/// A field of Istio that Egret does not implement and cannot leave out safely.
pub const UNSUPPORTED: &str = "EG0109";
/// The last good version of a refused object stays in force.
pub const LAST_GOOD: &str = "EG0110";
/// A refused object without a last good version: what it could have been for is refused.
pub const FAIL_CLOSED: &str = "EG0111";
/// A file that cannot be read.
pub const UNREADABLE: &str = "EG0112";

/// A field of Istio that tunes traffic and has no effect in Egret.
pub const NO_EFFECT: &str = "EG0201";
/// An object that can have no effect where it is.
pub const INERT: &str = "EG0202";

/// A port is declared HTTPS or TLS and no DestinationRule originates TLS: clear requests to it are refused, Istio sends them.
pub const TLS_REQUIRED: &str = "EG0301";
/// A port-level entry without `tls` hides the top-level `tls` in Istio; Egret inherits it.
pub const PORT_LEVEL_INHERITS: &str = "EG0302";
/// Several DestinationRules for one host in one namespace: Istio takes the first, Egret the first that says something on TLS.
pub const SEVERAL_RULES: &str = "EG0303";
/// The host is written with upper-case letters, for which Istio does not find the rule; Egret does.
pub const HOST_CASE: &str = "EG0304";
/// `ISTIO_MUTUAL` towards a host outside the mesh: refused.
pub const ISTIO_MUTUAL: &str = "EG0305";
/// The server's certificate is not verified at all.
pub const SKIP_VERIFY: &str = "EG0306";
/// Istio does not check the server's name for this rule; Egret checks it against `sni`, else the host.
pub const NAME_CHECK: &str = "EG0307";
/// The credential is not there, or cannot be used.
pub const CREDENTIAL: &str = "EG0308";
/// Workloads go out directly while no agent runs.
pub const ON_AGENT_DOWN: &str = "EG0320";

/// The cluster has no such kind.
pub const NO_SUCH_KIND: &str = "EG0401";
/// Whoever asks may not read this, so nothing is said of it.
pub const NOT_SHOWN: &str = "EG0402";
