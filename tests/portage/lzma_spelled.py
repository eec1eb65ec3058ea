"""An LZMA stream of literals that has given bytes at a given place, for polyglot.py."""

TOP, BITS, MOVE = 1 << 24, 11, 5
LC, LP, PB = 3, 0, 2
PROPERTIES = (PB * 5 + LP) * 9 + LC


class DeadEnd(Exception):
    """The wanted bytes would be a match, or are out of reach."""


class Encoder:
    """Every byte becomes a literal. Source of the format: LZMA SDK, lzma-specification.txt."""

    def __init__(self):
        self.low, self.range, self.cache, self.pending, self.out = 0, 0xFFFFFFFF, 0, 1, bytearray()
        self.is_match = [1 << (BITS - 1)] * (1 << PB)
        self.literals = [[1 << (BITS - 1)] * 0x300 for _ in range(1 << LC)]
        self.position, self.previous = 0, 0

    def settled(self):
        """Bytes that no carry can change any more, with those that wait for one."""
        return len(self.out) + self.pending

    def bit(self, probabilities, index, bit):
        bound = (self.range >> BITS) * probabilities[index]
        if bit == 0:
            self.range = bound
            probabilities[index] += ((1 << BITS) - probabilities[index]) >> MOVE
        else:
            self.low, self.range = self.low + bound, self.range - bound
            probabilities[index] -= probabilities[index] >> MOVE
        while self.range < TOP:
            self.range <<= 8
            self.shift()

    def shift(self):
        if self.low < 0xFF000000 or self.low >= 1 << 32:
            carry = self.low >> 32
            self.out.append((self.cache + carry) & 0xFF)
            self.out += bytes([(0xFF + carry) & 0xFF]) * (self.pending - 1)
            self.pending, self.cache = 0, (self.low >> 24) & 0xFF
        self.pending += 1
        self.low = (self.low & 0x00FFFFFF) << 8

    def literal(self, choose):
        """Encodes the byte whose bits `choose` gives; the first one says whether it is a match, which it may not be."""
        if choose(self.is_match, self.position & ((1 << PB) - 1)) != 0:
            raise DeadEnd
        self.bit(self.is_match, self.position & ((1 << PB) - 1), 0)
        probabilities, symbol = self.literals[self.previous >> (8 - LC)], 1
        while symbol < 0x100:
            bit = choose(probabilities, symbol)
            self.bit(probabilities, symbol, bit)
            symbol = symbol << 1 | bit
        self.position, self.previous = self.position + 1, symbol & 0xFF
        return self.previous

    def byte(self, value):
        bits = iter([0] + [value >> shift & 1 for shift in range(7, -1, -1)])
        return self.literal(lambda *_: next(bits))

    def bytes(self, content):
        for value in content:
            self.byte(value)

    def spell(self, wanted):
        """Encodes bytes so that the next ones of the output are `wanted`; returns those bytes."""
        if self.pending != 1:
            raise DeadEnd
        # What the decoder would have read so far, relative to `low`: it is to stay within the range.
        rest = bytearray(wanted + b"\x80" * 8)
        code = int.from_bytes(rest[:4], "big") - self.low
        start, done, end = self.settled(), 4, self.settled() + len(wanted)
        if not 0 <= code < self.range:
            raise DeadEnd
        state = {"code": code, "done": done}

        def choose(probabilities, index):
            bound = (self.range >> BITS) * probabilities[index]
            bit = int(state["code"] >= bound)
            size = self.range - bound if bit else bound
            state["code"] -= bound * bit
            while size < TOP:
                size <<= 8
                following = rest[state["done"]] if state["done"] < len(rest) else 0x80
                state["code"] = state["code"] << 8 | following
                state["done"] += 1
            return bit

        content = bytearray()
        while self.settled() < end + 1:
            content.append(self.literal(choose))
        return bytes(content)

    def flush(self):
        for _ in range(5):
            self.shift()
        # The first byte is always 0 and belongs to the stream.
        return bytes(self.out)
