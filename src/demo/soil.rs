//! A field: a Modbus PLC with a moisture probe and a valve. The soil dries;
//! water makes it wet again. The PLC counts the valve's seconds down by
//! itself, so it closes even if nobody writes again.

use std::collections::HashMap;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_modbus::server::Service;
use tokio_modbus::server::tcp::{Server, accept_tcp_connection};
use tokio_modbus::{ExceptionCode, Request, Response};

use crate::exit::{FAILED, Failure};

/// Holding register with the valve's remaining seconds.
const VALVE_SECONDS: u16 = 40;
/// The simulation's step.
const STEP: Duration = Duration::from_millis(200);

pub(super) struct Soil {
    pub(super) address: SocketAddr,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Soil {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// The PLC's memory.
#[derive(Clone, Default)]
struct Plc {
    /// Moisture in tenths of a percent.
    input: Arc<Mutex<Vec<u16>>>,
    holding: Arc<Mutex<HashMap<u16, u16>>>,
}

impl Service for Plc {
    type Request = Request<'static>;
    type Response = Response;
    type Exception = ExceptionCode;
    type Future = Ready<Result<Response, ExceptionCode>>;

    fn call(&self, request: Request<'static>) -> Self::Future {
        ready(self.answer(&request))
    }
}

impl Plc {
    fn answer(&self, request: &Request<'static>) -> Result<Response, ExceptionCode> {
        let mut holding = self.holding.lock().unwrap_or_else(PoisonError::into_inner);
        #[allow(clippy::wildcard_enum_match_arm, reason = "a PLC refuses what it does not know")]
        match request {
            Request::ReadInputRegisters(start, count) => {
                let input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
                let range = usize::from(*start)..usize::from(*start) + usize::from(*count);
                input
                    .get(range)
                    .map(|cells| Response::ReadInputRegisters(cells.to_vec()))
                    .ok_or(ExceptionCode::IllegalDataAddress)
            }
            Request::ReadHoldingRegisters(start, count) => {
                let cells: Option<Vec<u16>> =
                    (0..*count).map(|index| holding.get(&start.checked_add(index)?).copied()).collect();
                cells.map(Response::ReadHoldingRegisters).ok_or(ExceptionCode::IllegalDataAddress)
            }
            Request::WriteSingleRegister(at, value) if holding.contains_key(at) => {
                holding.insert(*at, *value);
                Ok(Response::WriteSingleRegister(*at, *value))
            }
            Request::WriteSingleRegister(..) => Err(ExceptionCode::IllegalDataAddress),
            _ => Err(ExceptionCode::IllegalFunction),
        }
    }
}

impl Soil {
    pub(super) async fn start() -> Result<Soil, Failure> {
        let failed =
            |error: std::io::Error| Failure::new(FAILED, format!("cannot start the simulated PLC: {error}"));
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let plc = Plc {
            input: Arc::new(Mutex::new(vec![200, 0, 0, 0])),
            holding: Arc::new(Mutex::new(HashMap::from([(VALVE_SECONDS, 0)]))),
        };
        let server = Server::new(listener);
        let served = plc.clone();
        let serve = tokio::spawn(async move {
            let connected = |stream, peer| {
                let plc = served.clone();
                async move { accept_tcp_connection(stream, peer, move |_| Ok(Some(plc.clone()))) }
            };
            if let Err(error) =
                server.serve(&connected, |error| tracing::debug!("simulated PLC: {error}")).await
            {
                tracing::warn!("the simulated PLC has stopped: {error}");
            }
        });
        let physics = tokio::spawn(dry_and_water(plc));
        Ok(Soil { address, tasks: [serve, physics] })
    }
}

/// The soil loses 0.1 % a step and gains 0.4 % while the valve is open.
async fn dry_and_water(plc: Plc) {
    let mut ticks = tokio::time::interval(STEP);
    let mut steps: u16 = 0;
    loop {
        ticks.tick().await;
        steps = steps.wrapping_add(1);
        let mut holding = plc.holding.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = holding.entry(VALVE_SECONDS).or_insert(0);
        let open = *seconds > 0;
        if open && steps.is_multiple_of(5) {
            *seconds -= 1;
        }
        drop(holding);
        let mut input = plc.input.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(moisture) = input.first_mut() {
            *moisture = if open { (*moisture + 4).min(600) } else { moisture.saturating_sub(1) };
        }
    }
}
