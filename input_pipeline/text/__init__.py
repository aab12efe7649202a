"""Words: the tokenizer, the conversation around an image, and what an answer says of a photo."""
