//! Where a device is and how it is spoken to; shared by the source and the
//! task that writes.

use std::sync::Arc;
use std::time::Duration;

use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::topology::key::{Key, Kind, optional};
use tidegate_engine::topology::node::BuildContext;
use tidegate_engine::topology::value::{Table, Text};

use super::bus::{Bus, SerialLine, Timing, Transport};

/// Keys of the line to a device.
pub(crate) const LINE_KEYS: &[Key] = &[
    optional("timeout", Kind::Duration, "longest wait for an answer, \"1s\" if left out"),
    optional("pause", Kind::Duration, "silence between two requests, none if left out"),
    optional("baud", Kind::Int(50, 4_000_000), "serial line: bits per second, 19200 if left out"),
    optional("data_bits", Kind::Int(7, 8), "serial line: 8 if left out"),
    optional("parity", Kind::Word(&["none", "even", "odd"]), "serial line: \"even\" if left out"),
    optional("stop_bits", Kind::Int(1, 2), "serial line: 1 if left out"),
];

/// Longest wait for an answer, unless the file says otherwise.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The line to a device. Parts that name the same device share it.
pub(crate) fn line(device: &Text, table: &Table, context: &BuildContext) -> Result<Arc<Bus>, Diagnostic> {
    let transport = transport(device, table)?;
    let timing = Timing {
        timeout: table.duration("timeout").unwrap_or(TIMEOUT).max(Duration::from_millis(1)),
        pause: table.duration("pause").unwrap_or(Duration::ZERO),
    };
    Ok(context.shared.get_or_insert(&device.value, || Bus::new(transport, timing)))
}

fn transport(device: &Text, table: &Table) -> Result<Transport, Diagnostic> {
    let wrong = |message: String| {
        let help = "write e.g. \"tcp://10.0.0.5:502\", \"rtu+tcp://10.0.0.5:4001\" or \"rtu:///dev/ttyUSB0\"";
        Diagnostic::error("TG-M002", message).at(device.span.clone()).help(help)
    };
    let (scheme, rest) = device
        .value
        .split_once("://")
        .ok_or_else(|| wrong(format!("`{}` does not say how to reach the device", device.value)))?;
    match scheme {
        "tcp" => Ok(Transport::Tcp(with_port(rest, device)?)),
        "rtu+tcp" => Ok(Transport::RtuOverTcp(with_port(rest, device)?)),
        "rtu" if rest.starts_with('/') => {
            Ok(Transport::Serial { path: rest.to_owned(), line: serial(table) })
        }
        "rtu" => Err(wrong(format!("`{rest}` is no serial port"))),
        other => Err(wrong(format!("there is no transport `{other}`"))),
    }
}

/// `host` or `host:port`; Modbus has port 502.
fn with_port(rest: &str, device: &Text) -> Result<String, Diagnostic> {
    let rest = rest.trim_end_matches('/');
    let bare_ipv6 = rest.starts_with('[') && rest.ends_with(']');
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !bare_ipv6 => (host, port.parse::<u16>().ok()),
        Some(_) | None => (rest, Some(502)),
    };
    match port {
        Some(port) if !host.is_empty() => Ok(format!("{host}:{port}")),
        Some(_) | None => {
            let message = format!("`{rest}` is no host and port");
            Err(Diagnostic::error("TG-M002", message)
                .at(device.span.clone())
                .help("write e.g. \"tcp://10.0.0.5:502\""))
        }
    }
}

fn serial(table: &Table) -> SerialLine {
    SerialLine {
        baud: table.int_as("baud").unwrap_or(19_200),
        data_bits: match table.int("data_bits") {
            Some(7) => tokio_serial::DataBits::Seven,
            Some(_) | None => tokio_serial::DataBits::Eight,
        },
        parity: match table.str("parity") {
            Some("none") => tokio_serial::Parity::None,
            Some("odd") => tokio_serial::Parity::Odd,
            Some(_) | None => tokio_serial::Parity::Even,
        },
        stop_bits: match table.int("stop_bits") {
            Some(2) => tokio_serial::StopBits::Two,
            Some(_) | None => tokio_serial::StopBits::One,
        },
    }
}
