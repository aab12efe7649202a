"""What people look at: photos with masks, captions, and the parts all pages share."""
