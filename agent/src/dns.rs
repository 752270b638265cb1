//! Name resolution at the gateway (design D13): the system's configuration, answers kept for their TTL, failures briefly.
//!
//! `gateway` calls it. Does not judge the addresses; `gateway::address` does.

use std::{net::IpAddr, time::Duration};

use hickory_resolver::{TokioResolver, config::LookupIpStrategy};

/// A name server that does not answer is asked again after this long.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Longest a caller waits for an answer, whatever the retries.
const TOTAL: Duration = Duration::from_secs(5);
/// Answers with a shorter TTL are kept this long, so that a TTL of 0 does not mean one query per connection.
const POSITIVE_MIN: Duration = Duration::from_secs(1);
/// A failure is not kept longer: whoever just created the record should not wait for the zone's negative TTL.
const NEGATIVE_MAX: Duration = Duration::from_secs(10);
const CACHE_NAMES: u64 = 4096;

/// Why a name gave no address, as a sentence for an operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// The resolver. Cheap to clone; clones share the cache.
#[derive(Clone)]
pub struct Resolver {
    source: Source,
}

#[derive(Clone)]
enum Source {
    System(Box<TokioResolver>),
    #[cfg(test)]
    Table(std::collections::HashMap<String, Vec<IpAddr>>),
}

impl Resolver {
    /// With `/etc/resolv.conf` and `/etc/hosts`, read now.
    pub fn system() -> Result<Self, Error> {
        let fail = |e| Error(format!("the resolver cannot be set up from /etc/resolv.conf: {e}"));
        let mut builder = TokioResolver::builder_tokio().map_err(fail)?;
        let options = builder.options_mut();
        options.timeout = ATTEMPT;
        options.attempts = 2;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.cache_size = CACHE_NAMES;
        options.positive_min_ttl = Some(POSITIVE_MIN);
        options.negative_max_ttl = Some(NEGATIVE_MAX);
        Ok(Self { source: Source::System(Box::new(builder.build().map_err(fail)?)) })
    }

    /// Only these names, for tests.
    #[cfg(test)]
    pub(crate) fn table(names: &[(&str, &[&str])]) -> Self {
        let parse = |addresses: &[&str]| addresses.iter().map(|a| a.parse().unwrap()).collect();
        let names = names.iter().map(|(name, addresses)| ((*name).to_owned(), parse(addresses))).collect();
        Self { source: Source::Table(names) }
    }

    /// The addresses of `name`, never none. A name is complete as it is: search domains are for people, and with the
    /// `ndots:5` of Kubernetes they cost several queries per name.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, Error> {
        match &self.source {
            Source::System(resolver) => {
                let absolute = if name.ends_with('.') { name.to_owned() } else { format!("{name}.") };
                let answer = tokio::time::timeout(TOTAL, resolver.lookup_ip(absolute))
                    .await
                    .map_err(|_| {
                        Error(format!(
                            "{name} was not resolved within {} s: no name server answered",
                            TOTAL.as_secs()
                        ))
                    })?
                    .map_err(|e| Error(format!("{name} cannot be resolved: {e}")))?;
                let addresses: Vec<_> = answer.iter().collect();
                if addresses.is_empty() {
                    return Err(Error(format!("{name} has no A or AAAA record")));
                }
                Ok(addresses)
            }
            #[cfg(test)]
            Source::Table(names) => names
                .get(name)
                .cloned()
                .ok_or_else(|| Error(format!("{name} cannot be resolved: no such name"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Resolver;

    #[tokio::test]
    async fn knows_this_host_without_a_name_server() {
        let resolver = Resolver::system().unwrap();
        let addresses = resolver.resolve("localhost").await.unwrap();
        assert!(
            !addresses.is_empty() && addresses.iter().all(std::net::IpAddr::is_loopback),
            "{addresses:?}"
        );
    }
}
