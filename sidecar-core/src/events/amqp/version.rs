//! Which broker it is. The driver keeps what the broker says of itself, so it is asked once more, as far as its greeting.

use std::time::Duration;

use lapin::protocol::connection::parse_start;
use lapin::types::{AMQPValue, ShortString};
use lapin::uri::{AMQPScheme, AMQPUri};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long the greeting may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest greeting.
const LONGEST: usize = 64 * 1024;
/// What a client begins with: AMQP 0-9-1.
const HEADER: &[u8; 8] = b"AMQP\0\0\x09\x01";
/// Before the payload of a frame: its type, its channel, and its length.
const FRAME: usize = 7;

/// The version of a RabbitMQ, major and minor; `None` for another broker, or one that is reached by TLS alone.
pub(super) async fn of_rabbitmq(uri: &AMQPUri) -> Option<(u32, u32)> {
    if uri.scheme != AMQPScheme::AMQP {
        return None;
    }
    tokio::time::timeout(PATIENCE, greeting(&uri.authority.host, uri.authority.port)).await.ok()?
}

async fn greeting(host: &str, port: u16) -> Option<(u32, u32)> {
    let mut stream = TcpStream::connect((host, port)).await.ok()?;
    stream.write_all(HEADER).await.ok()?;
    let mut frame = [0; FRAME];
    stream.read_exact(&mut frame).await.ok()?;
    let length = u32::from_be_bytes(frame[3..].try_into().ok()?) as usize;
    let mut payload = vec![0; length.min(LONGEST)];
    stream.read_exact(&mut payload).await.ok()?;
    // The class and the method come first: it begins the connection, as nothing else can.
    let (_, start) = parse_start(payload.get(4..)?).ok()?;
    let told = |name: &str| match start.server_properties.inner().get(&ShortString::from(name))? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        _ => None,
    };
    if told("product")? != "RabbitMQ" {
        return None;
    }
    let version = told("version")?;
    let mut numbers = version.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}
