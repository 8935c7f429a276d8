//! A module that makes a thumbnail of every picture.
//!
//! Each picture gets an event `thumbnail_created`; one more, `thumbnails_created`, carries them all, for a
//! module that wants to see them together.

use std::process::ExitCode;

use image::{ImageFormat, ImageReader};
use sidecar_client::Workspace;

/// The longer side of a thumbnail, in pixels.
const SIZE: u32 = 128;

type Error = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    sidecar_client::run(async |module| thumbnails(module.workspace())).await
}

fn thumbnails(work: &Workspace) -> Result<(), Error> {
    let mut thumbnails = Vec::new();
    for name in work.files()? {
        let reader = ImageReader::open(work.input(&name))?.with_guessed_format()?;
        if reader.format().is_none() {
            println!("{name}: not a picture this module can read");
            continue;
        }
        let picture = reader.decode().map_err(|error| format!("{name}: {error}"))?;
        let thumbnail = picture.thumbnail(SIZE, SIZE);

        let small = format!("{name}.thumb.png");
        let mut output = work.output(&small)?;
        thumbnail.write_to(&mut output, ImageFormat::Png)?;
        output.finish()?;

        let size = format!("{}x{}", picture.width(), picture.height());
        println!("{name}: {size} to {}x{}", thumbnail.width(), thumbnail.height());
        work.insight(name.as_str(), &size);
        work.event("thumbnail_created").file(&small).value("picture", &name).value("size", size).write()?;
        thumbnails.push(small);
    }
    let all = work.event("thumbnails_created").value("count", thumbnails.len());
    thumbnails.iter().fold(all, |event, name| event.file(name)).name("all").write()?;
    Ok(())
}
