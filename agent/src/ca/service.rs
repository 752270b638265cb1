//! The CA protocol on a Unix socket. Who may connect is decided by the kernel's word on the caller (`SO_PEERCRED`).

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::Path,
    pin::pin,
    time::Duration,
};

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{UnixListener, UnixStream},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::Status;

use super::{
    Authority, Error, method,
    protocol::{IstioCertificateRequest, IstioCertificateResponse, impersonated},
};
use crate::mesh::SpiffeId;

/// A pause after `accept` fails, which it does when the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener at `socket`, mode 0600, in place of one that a killed process left behind.
pub fn listen(socket: &Path) -> Result<UnixListener, Error> {
    let fail = |e: io::Error| Error::new(format!("the CA cannot listen at {}: {e}", socket.display()));
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        return Err(Error::new(format!("another CA is running at {}", socket.display())));
    }
    match fs::symlink_metadata(socket) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(socket).map_err(fail)?,
        Ok(_) => return Err(Error::new(format!("{} is there and is no socket", socket.display()))),
        Err(_) => {}
    }
    // Between bind and chmod the umask decides who may connect; `serve` looks at each caller, so nobody gets in early.
    let listener = UnixListener::bind(socket).map_err(fail)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600)).map_err(fail)?;
    Ok(listener)
}

/// Serves the CA protocol on `listener` until `drain`, then finishes what is in progress. Callers other than root and the user of this process are turned away in any case.
pub async fn serve(listener: UnixListener, authority: Authority, drain: CancellationToken) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = drain.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) if is_trusted(&stream) => {
                connections.spawn(connection(stream, authority.clone(), drain.clone()));
            }
            Ok(_) => {}
            Err(e) => {
                tracing::warn!(error = %e, "the CA socket cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

fn is_trusted(stream: &UnixStream) -> bool {
    match stream.peer_cred() {
        Ok(caller) if may_call(caller.uid(), nix::unistd::geteuid().as_raw()) => true,
        Ok(caller) => {
            tracing::warn!(uid = caller.uid(), pid = caller.pid(), "a caller of the CA socket was refused");
            false
        }
        Err(e) => {
            tracing::warn!(error = %e, "a caller of the CA socket is unknown and was refused");
            false
        }
    }
}

/// Root could read the key anyway, and our own user could too.
const fn may_call(caller: u32, own: u32) -> bool {
    caller == 0 || caller == own
}

async fn connection(stream: UnixStream, authority: Authority, drain: CancellationToken) {
    let service = service_fn(move |request| {
        let authority = authority.clone();
        method::respond(request, move |request| {
            std::future::ready(create_certificate(&authority, request.get_ref()))
        })
    });
    let mut connection = pin!(
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
    );
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(e) = result {
        tracing::debug!(error = %e, "a connection to the CA socket broke");
    }
}

fn create_certificate(
    authority: &Authority,
    request: &IstioCertificateRequest,
) -> Result<IstioCertificateResponse, Status> {
    // The socket lets in only who may ask for every identity.
    let identity: SpiffeId = impersonated(request.metadata.as_ref())
        .ok_or_else(|| Status::invalid_argument("the request names no ImpersonatedIdentity"))?
        .parse()
        .map_err(|e: crate::mesh::IdentityError| Status::invalid_argument(e.to_string()))?;
    method::sign(authority, &identity, request)
}

#[cfg(test)]
mod tests {
    use super::may_call;

    #[test]
    fn only_root_and_our_own_user_may_call() {
        for (caller, own, may) in
            [(0, 0, true), (0, 1000, true), (1000, 1000, true), (1000, 0, false), (1001, 1000, false)]
        {
            assert_eq!(may_call(caller, own), may, "{caller} calls {own}");
        }
    }
}
