import open_clip


class T:
    def __init__(s):
        s.t = open_clip.tokenizer.SimpleTokenizer()
        s.sos = s.t.sot_token_id
        s.eot = s.t.eot_token_id

    def encode(s, text):
        return s.t.encode(text)


def clip_tokenizer():
    return T()
