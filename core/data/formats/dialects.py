"""The names that columns go by, in the order in which they are looked for. Case and separators do not count."""

from __future__ import annotations

CHATS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns")
TURNS = (*CHATS, "utterances", "history", "exchanges")
SYSTEMS = ("system", "system_prompt", "system_message", "sys_prompt")
TOOLS = ("tools", "functions", "available_tools")
HISTORIES = ("history",)

INSTRUCTIONS = ("instruction", "instructions")
INPUTS = ("input", "context")
QUESTIONS = (
    "question", "frage", "pregunta", "pergunta", "domanda", "вопрос", "问题", "質問", "질문",
)  # fmt: skip
CONTEXTS = ("context", "passage", "paragraph", "document", "article", "story", "background")
CHOICES = ("choices", "options", "endings", "candidates")

PROMPTS = (
    "prompt", *QUESTIONS, "query", "input", "user", "human", "user_message", "user_input", "user_prompt", "problem",
    "input_text", "request", "utterance",
)  # fmt: skip
SOURCES = (
    "source_text", "source", "src", "context", "document", "article", "dialogue", "dialog", "conversation", "text",
    "content", "body", "passage", "post",
)  # fmt: skip
ANSWERS = (
    "completion", "response", "answer", "output", "answers", "antwort", "respuesta", "resposta", "risposta", "réponse",
    "ответ", "回答", "答案", "답변", "assistant", "assistant_message", "assistant_response", "bot",
    "bot_response", "reply", "target",
    "target_text", "tgt", "solution", "best_answer", "expected_output", "summary", "highlights", "tldr",
)  # fmt: skip
MAYBE_LABELS = ("target", "output", "answer", "response")  # of answers, beside a text that is no question

CHOSEN = (
    "chosen", "chosen_messages", "chosen_response", "preferred_output", "preferred", "response_j", "accepted",
)  # fmt: skip
REJECTED = (
    "rejected", "rejected_messages", "rejected_response", "non_preferred_output", "dispreferred", "response_k",
)  # fmt: skip
DESIRED = ("label", "kto_tag", "is_desirable", "desirable", "is_desired", "desired")

PAIRS = (
    ("text", "text_pair"), ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"),
    ("text1", "text2"), ("text_a", "text_b"), ("question", "sentence"), ("question", "passage"),
)  # fmt: skip
BODIES = (
    "text", "sentence", "review", "content", "comment", "tweet", "message", "body", "email", "mail", "sms", "post",
    "utterance", "document", "article", "passage",
)  # fmt: skip
HEADINGS = ("headline", "title", "subject", "question", "query", "prompt", "input")
LABELS = (
    "label_text", "label_name", "class_name", "label", "labels", "gold_label", "class", "class_index", "category",
    "sentiment", "emotion", "intent", "topic",
)  # fmt: skip
MAYBE_CLASSES = (
    "target", "rating", "stars", "polarity", "genre", "tag", "is_spam", "spam", "toxic", "language", "lang", "type",
)  # fmt: skip
PASSAGES = (
    "text", "content", "body", "document", "article", "passage", "story", "raw_content", "page_content", "raw_text",
    "paragraph", "markdown", "code",
)  # fmt: skip
ABOUT = (
    "id", "uuid", "idx", "index", "key", "url", "link", "source", "date", "time", "timestamp", "created_at", "author",
    "title", "path", "file", "filename", "file_name", "license", "meta", "metadata", "lang", "language", "split",
    "dataset", "subset", "repo_name", "domain", "user_id", "category", "type", "model",
)  # fmt: skip
MEDIA = ("image", "images", "audio", "audios", "video", "videos")
