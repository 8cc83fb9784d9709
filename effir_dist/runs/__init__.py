"""What a search writes and reads back: records, the run folder, and the front that follows from them."""
