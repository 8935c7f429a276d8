//! A module that puts all pictures of an event on one sheet.

use std::process::ExitCode;

use image::{ImageFormat, ImageReader, Rgb, RgbImage, imageops};
use sidecar_client::Workspace;
use sidecar_client::blocking;

/// The side of one cell, in pixels: a thumbnail and a margin.
const CELL: u32 = 144;
/// How many cells a row has.
const COLUMNS: u32 = 4;

fn main() -> ExitCode {
    blocking::run(|module| sheet(module.workspace()))
}

fn sheet(work: &Workspace) -> Result<(), Box<dyn std::error::Error>> {
    let names = work.files()?;
    let count = u32::try_from(names.len())?.max(1);
    let mut sheet =
        RgbImage::from_pixel(COLUMNS.min(count) * CELL, count.div_ceil(COLUMNS) * CELL, Rgb([250; 3]));
    for (i, name) in (0..).zip(&names) {
        let picture = ImageReader::open(work.input(name))?.with_guessed_format()?.decode()?;
        let picture = picture.thumbnail(CELL - 16, CELL - 16).to_rgb8();
        let (x, y) = (i % COLUMNS * CELL, i / COLUMNS * CELL);
        let (left, top) = (x + (CELL - picture.width()) / 2, y + (CELL - picture.height()) / 2);
        imageops::replace(&mut sheet, &picture, left.into(), top.into());
    }
    let mut output = work.output("contact-sheet.png")?;
    sheet.write_to(&mut output, ImageFormat::Png)?;
    output.finish()?;

    work.insight("pictures", names.len());
    work.event("contact_sheet_created").file("contact-sheet.png").write()?;
    println!("{} pictures on one sheet", names.len());
    Ok(())
}
