"""What endpoints are asked, and how what they reply is read. Nothing here sends anything."""
