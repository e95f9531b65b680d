"""Where personal adapters will be learned, judged and carried: the room is kept, nothing lives in it yet."""
