"""Golden cases of FakeVLM: a LLaVA that gives its verdict in words."""
